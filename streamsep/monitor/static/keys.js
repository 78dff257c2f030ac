// The keyboard, wherever the focus is but in a text or a menu.

const TYPES = "input[type=text], select, textarea";

export function listenToKeys({ mixer, bypass, panic, listener, link }) {
  const overlay = document.getElementById("keys");
  const help = () => (overlay.open ? overlay.close() : overlay.showModal());
  document.getElementById("help").addEventListener("click", help);
  document.getElementById("keys-close").addEventListener("click", () => overlay.close());

  const actions = {
    m: () => mixer.selected?.mute?.press(),
    s: () => mixer.selected?.solo?.press(),
    l: () => mixer.selected && listener.choose(mixer.selected.signal),
    b: () => bypass.press(),
    p: () => panic.press(),
    c: () => link.send("/meters/reset"),
    "?": help,
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TYPES)) return;
    const key = event.key.toLowerCase();
    if (overlay.open && key !== "p" && key !== "?") return; // panic works always
    if (/^\d$/.test(key)) mixer.digit(Number(key));
    else if (actions[key]) {
      if (!event.repeat) actions[key]();
    } else return;
    event.preventDefault();
  });
}
