// The menus of models and devices. What is chosen is asked for; what holds is what the daemon tells.

const OWN = "the system's own";

export class Menus {
  constructor(link) {
    this._link = link;
    this._model = new Menu("model", (name) => link.send("/model", "s", name));
    link.on("/model", ([name]) => this._model.show(name));
    this._devices = ["input", "output"].map((kind) => {
      const menu = new Menu(kind, (name) => link.send(`/device/${kind}`, "s", name || "default"));
      menu.select.addEventListener("pointerdown", () => this._ask());
      menu.select.addEventListener("focus", () => this._ask());
      link.on(`/device/${kind}`, ([name]) => menu.show(name));
      link.onFacts("devices", (found) => menu.offer(["", ...found[kind]]));
      return menu;
    });
    this._asked = -Infinity;
  }

  offer({ models }) {
    this._model.offer(models);
  }

  /** Looking for devices is work for the daemon's machine: only when somebody opens a menu. */
  _ask() {
    if (performance.now() - this._asked < 5000) return;
    this._asked = performance.now();
    this._link.askDevices();
  }
}

class Menu {
  constructor(id, choose) {
    this.select = document.getElementById(id);
    this._names = [];
    this._now = "";
    this.select.addEventListener("change", () => {
      choose(this.select.value);
      this.select.value = this._now; // until it is told
    });
  }

  offer(names) {
    this._names = names;
    this._fill();
  }

  show(name) {
    this._now = name;
    this._fill();
  }

  _fill() {
    const names = [...new Set([this._now, ...this._names])];
    if (names.join("\n") !== [...this.select.options].map((option) => option.value).join("\n")) {
      this.select.replaceChildren(...names.map((name) => new Option(name || OWN, name)));
    }
    this.select.value = this._now;
  }
}
