// The theme searches in a Worker, and browsers allow none to a page that was opened from a folder: there the same script runs
// in a hidden frame. mkdocs.yml names this file as a polyfill; without it the theme would fetch one from another host.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      const page = frame.contentDocument
      page.open()
      this.waiting = [] // what is sent before the script is there
      this.send = (data) => inside.dispatchEvent(new MessageEvent("message", { data }))
      inside.postMessage = (data) => setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data })))
      inside.ready = () => {
        this.waiting.forEach((data) => setTimeout(() => this.send(data)))
        this.waiting = null
      }
      page.write(`<script src="${url}"></scr` + "ipt><script>ready()</scr" + "ipt>")
      page.close()
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else setTimeout(() => this.send(data))
    }
  }
}
