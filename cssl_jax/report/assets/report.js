"use strict";
// The page is self-contained: data in the JSON element, images as CSS backgrounds. It makes no request.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLORS = 8, SHAPES = ["circle", "triangle", "square", "diamond", "cross"];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text; // not innerHTML: names come from the user's files
    return node;
  };

  function thumb(map, i) {
    const node = make("span", `thumb s${map.sprite}` + (map.side <= 32 ? " small" : ""));
    node.style.setProperty("--x", i % map.columns);
    node.style.setProperty("--y", Math.floor(i / map.columns));
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", title(map, i));
    return node;
  }
  function label(map, i) {
    return map.labels && map.labels[i] >= 0 ? map.classes[map.labels[i]] : "";
  }
  function title(map, i) {
    return label(map, i) ? `${map.names[i]}, ${label(map, i)}` : map.names[i];
  }

  function trace(path, shape, x, y, r) {
    if (shape === "circle") { path.moveTo(x + r, y); path.arc(x, y, r, 0, 2 * Math.PI); }
    else if (shape === "square") path.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
    else if (shape === "cross") {
      const t = 0.4 * r, l = 1.2 * r;
      path.rect(x - l, y - t, 2 * l, 2 * t); path.rect(x - t, y - l, 2 * t, 2 * l);
    } else {
      const corners = shape === "triangle"
        ? [[0, -1.25], [1.15, 0.85], [-1.15, 0.85]] : [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]];
      corners.forEach(([a, b], k) => (k ? path.lineTo : path.moveTo).call(path, x + a * r, y + b * r));
      path.closePath();
    }
  }
  const look = (c) => ({ color: `--k${c % COLORS}`, shape: SHAPES[Math.floor(c / COLORS) % SHAPES.length] });

  const views = [];
  class View {
    constructor(root) {
      this.map = data.maps[Number(root.dataset.map)];
      this.canvas = root.querySelector("canvas");
      this.tip = root.querySelector(".tip");
      this.picked = root.querySelector(".picked");
      this.axes = root.querySelector(".axes");
      this.kind = "tsne" in this.map.places ? "tsne" : Object.keys(this.map.places)[0];
      this.zoom = 1; this.dx = 0; this.dy = 0; // offset of the view in units of the map's side
      this.only = -1; this.hover = -1; this.chosen = -1; // class shown alone, image indices; -1: none
      this.buttons(root.querySelector(".bar"));
      this.legend(root.querySelector(".legend"));
      this.listen();
      new ResizeObserver(() => this.draw()).observe(this.canvas);
      this.show(this.kind);
      if (this.map.k) { this.chosen = 0; this.neighbours(0); }
    }
    buttons(bar) {
      this.kinds = Object.entries(this.map.places).map(([kind, projection]) => {
        const button = make("button", "", projection.title);
        button.type = "button";
        button.onclick = () => this.show(kind);
        bar.append(button);
        return [kind, button];
      });
      [["−", "zoom out", () => this.scale(1 / 1.5)], ["+", "zoom in", () => this.scale(1.5)],
        ["reset", "show all", () => this.scale(1 / this.zoom)]]
        .forEach(([text, name, act], k) => {
          const button = make("button", k ? "" : "right", text);
          button.type = "button"; button.setAttribute("aria-label", name); button.onclick = act;
          bar.append(button);
        });
    }
    legend(box) {
      const { classes, labels } = this.map;
      if (!labels) { box.remove(); return; }
      const present = new Set(labels);
      this.chips = [];
      classes.forEach((name, c) => {
        if (!present.has(c)) return; // a class without validation images has no points
        const button = make("button"), { color, shape } = look(c);
        button.type = "button";
        button.setAttribute("aria-pressed", "false");
        const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        icon.setAttribute("viewBox", "-6 -6 12 12"); icon.setAttribute("aria-hidden", "true");
        const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
        mark.setAttribute("d", outline(shape)); mark.style.fill = `var(${color})`;
        icon.append(mark); button.append(icon, make("span", "", name));
        button.onclick = () => {
          this.only = this.only === c ? -1 : c;
          this.chips.forEach(([k, chip]) => chip.setAttribute("aria-pressed", String(k === this.only)));
          this.draw();
        };
        this.chips.push([c, button]);
        box.append(button);
      });
    }
    listen() {
      const canvas = this.canvas;
      let drag = null;
      canvas.addEventListener("pointermove", (event) => {
        if (drag && this.zoom > 1) {
          const box = canvas.getBoundingClientRect();
          this.dx = drag.dx + (event.clientX - drag.x) / box.width;
          this.dy = drag.dy + (event.clientY - drag.y) / box.height;
          drag.moved = drag.moved || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4;
          this.draw();
          return;
        }
        this.point(this.nearest(event));
      });
      canvas.addEventListener("pointerdown", (event) => {
        drag = { x: event.clientX, y: event.clientY, dx: this.dx, dy: this.dy, moved: false };
        // Without zoom the pointer is not captured, so that a finger on the map scrolls the page.
        if (this.zoom > 1) canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointerup", (event) => {
        if (drag && !drag.moved) this.choose(this.nearest(event));
        drag = null;
      });
      canvas.addEventListener("pointercancel", () => { drag = null; });
      canvas.addEventListener("pointerleave", () => { drag = null; this.point(-1); });
      canvas.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // plain scrolling moves the page
        event.preventDefault();
        this.scale(event.deltaY < 0 ? 1.2 : 1 / 1.2);
      }, { passive: false });
      canvas.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const n = this.map.names.length;
        this.choose((this.chosen + step + n) % n);
      });
    }
    show(kind) {
      this.kind = kind;
      this.kinds.forEach(([k, button]) => button.setAttribute("aria-pressed", String(k === kind)));
      const { title, x, y } = this.map.places[kind];
      this.axes.replaceChildren(make("span", "", `→ ${x}`), make("span", "", `↑ ${y}`));
      this.canvas.setAttribute("aria-label",
        `${title} map of ${this.map.names.length} ${this.map.noun}; arrow keys move from ${this.map.one} to ${this.map.one}`);
      this.draw();
    }
    scale(factor) {
      const zoom = Math.min(40, Math.max(1, this.zoom * factor)), change = zoom / this.zoom;
      this.dx *= change; this.dy *= change; this.zoom = zoom;
      if (zoom === 1) this.dx = this.dy = 0;
      this.canvas.style.touchAction = zoom > 1 ? "none" : "";
      this.draw();
    }
    // Canvas position of point i. The stored coordinates are integers from 0 to 9999, x and y in turn.
    position(i) {
      const p = this.map.places[this.kind].points, side = this.side, pad = 14;
      const x = (p[2 * i] / 9999 - 0.5) * this.zoom + 0.5 + this.dx;
      const y = (0.5 - p[2 * i + 1] / 9999) * this.zoom + 0.5 + this.dy;
      return [pad + x * (side - 2 * pad), pad + y * (side - 2 * pad)];
    }
    nearest(event) {
      const box = this.canvas.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      let best = -1, smallest = 24 * 24; // squared pixels: 24 px is about the width of a finger
      for (let i = 0; i < this.map.names.length; i++) {
        if (this.only >= 0 && this.map.labels[i] !== this.only) continue;
        const [a, b] = this.position(i), d = (a - x) ** 2 + (b - y) ** 2;
        if (d < smallest) { smallest = d; best = i; }
      }
      return best;
    }
    // Applies an action to every map of the same images: maps with the same sprite show the same images.
    forEachLinked(act) {
      views.filter((view) => view.map.sprite === this.map.sprite).forEach(act);
    }
    point(i) {
      if (i === this.hover) return;
      this.forEachLinked((view) => { view.hover = i; view.draw(); });
      this.tip.hidden = i < 0;
      if (i < 0) return;
      this.tip.replaceChildren(thumb(this.map, i), make("div", "", this.map.names[i]));
      if (label(this.map, i)) this.tip.append(make("b", "", label(this.map, i)));
      const [x, y] = this.position(i), left = x > this.side / 2;
      this.tip.style.left = left ? "" : `${x + 14}px`;
      this.tip.style.right = left ? `${this.side - x + 14}px` : "";
      this.tip.style.top = `${Math.max(0, Math.min(y - 50, this.side - 150))}px`;
    }
    choose(i) {
      if (i < 0) return;
      this.forEachLinked((view) => { view.chosen = i; view.neighbours(i); view.draw(); });
    }
    neighbours(i) {
      const { map } = this, row = make("div", "row");
      const nearest = map.neighbours.slice(i * map.k, (i + 1) * map.k);
      [i, ...nearest].forEach((j, order) => {
        const figure = make("figure");
        if (order && map.labels && map.labels[i] >= 0) {
          figure.className = map.labels[j] === map.labels[i] ? "same" : "other";
        }
        figure.append(thumb(map, j), make("figcaption", "", label(map, j) || map.names[j]));
        row.append(figure);
      });
      this.picked.replaceChildren(
        make("p", "pale", `${title(map, i)} and its nearest neighbours:`), row);
    }
    draw() {
      const { canvas, map } = this, ratio = window.devicePixelRatio || 1;
      this.side = canvas.clientWidth;
      if (!this.side) return;
      canvas.width = canvas.height = Math.round(this.side * ratio);
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      const n = map.names.length, base = Math.max(1.5, Math.min(4, 150 / Math.sqrt(n)));
      const r = Math.min(7, base * Math.sqrt(this.zoom));
      // One path per class: a fill per point would be slow. Key -2: points of classes that are not selected.
      const groups = new Map();
      for (let i = 0; i < n; i++) {
        const c = map.labels ? map.labels[i] : 0;
        const key = this.only >= 0 && c !== this.only ? -2 : c;
        if (!groups.has(key)) groups.set(key, new Path2D());
        const [x, y] = this.position(i);
        trace(groups.get(key), key >= 0 ? look(key).shape : "circle", x, y, r);
      }
      [...groups.keys()].sort((a, b) => a - b).forEach((key) => {
        pen.fillStyle = css(key >= 0 ? look(key).color : "--faded");
        pen.globalAlpha = key >= 0 ? 0.8 : 0.5;
        pen.fill(groups.get(key));
      });
      pen.globalAlpha = 1;
      [[this.chosen, 3], [this.hover, 2]].forEach(([i, width]) => {
        if (i < 0) return;
        const [x, y] = this.position(i);
        pen.beginPath(); pen.arc(x, y, r + 4, 0, 2 * Math.PI);
        pen.lineWidth = width; pen.strokeStyle = css("--ink"); pen.stroke();
      });
    }
  }
  function outline(shape) {
    const d = [];
    const pen = {
      moveTo: (x, y) => d.push(`M${x} ${y}`), lineTo: (x, y) => d.push(`L${x} ${y}`),
      closePath: () => d.push("Z"), rect: (x, y, w, h) => d.push(`M${x} ${y}h${w}v${h}h${-w}Z`),
      arc: (x, y, r) => d.push(`a${r} ${r} 0 1 1 ${-2 * r} 0a${r} ${r} 0 1 1 ${2 * r} 0`),
    };
    trace(pen, shape, 0, 0, 4.4);
    return d.join("");
  }

  // Shows the values under the pointer. Coordinates are those of the SVG's viewBox.
  function chart(root) {
    const { series, x0, x1, left, right, width } = data.charts[Number(root.dataset.chart)];
    const svg = root.querySelector("svg"), tip = root.querySelector(".tip");
    const guide = document.createElementNS("http://www.w3.org/2000/svg", "line");
    guide.setAttribute("class", "guide"); guide.setAttribute("y1", 12); guide.setAttribute("y2", 208);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width * width;
      const x = x0 + (across - left) / (width - left - right) * (x1 - x0);
      if (x < x0 || x > x1 + 1e-9) { hide(); return; }
      tip.replaceChildren(make("b", "", `epoch ${x.toPrecision(3)}`));
      series.forEach((line) => {
        let k = 0; // index of the point nearest to the pointer
        line.x.forEach((value, j) => { if (Math.abs(value - x) < Math.abs(line.x[k] - x)) k = j; });
        tip.append(make("div", "", `${line.label}: ${Number(line.y[k].toPrecision(4))}`));
      });
      guide.setAttribute("x1", across); guide.setAttribute("x2", across);
      svg.append(guide);
      const far = event.clientX - box.left > box.width / 2;
      tip.style.left = far ? "" : `${event.clientX - box.left + 14}px`;
      tip.style.right = far ? `${box.right - event.clientX + 14}px` : "";
      tip.style.top = "30px";
      tip.hidden = false;
    });
    const hide = () => { tip.hidden = true; guide.remove(); };
    svg.addEventListener("pointerleave", hide);
  }

  document.querySelectorAll("[data-map]").forEach((root) => views.push(new View(root)));
  document.querySelectorAll("[data-chart]").forEach(chart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => views.forEach((view) => view.draw()));
})();
