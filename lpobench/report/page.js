"use strict";
(() => {
  const zoom = document.getElementById("zoom");
  let open = null; // the tile that is enlarged

  const one = (root, query) => root.querySelector(query);
  const all = (root, query) => [...root.querySelectorAll(query)];
  const shown = (elements) => elements.filter((element) => !element.hidden);
  const tilesOf = (row) => all(row, ".tile");
  const rowOf = (tile) => tile.closest(".row");
  const rowsOf = (tile) => shown(all(tile.closest(".strip"), ".row"));

  /** The value of a metric in a tile; NaN where it has none. */
  function valueOf(tile, metric) {
    return Number(all(tile, "dd")[metric].dataset.value ?? NaN);
  }

  /** The tile that lies `rows` down and `columns` to the right; the tile itself at the edge. */
  function neighbour(tile, rows, columns) {
    const list = rowsOf(tile);
    const row = list[list.indexOf(rowOf(tile)) + rows];
    if (!row) return tile;
    const here = shown(tilesOf(rowOf(tile)));
    return shown(tilesOf(row))[here.indexOf(tile) + columns] ?? tile;
  }

  function focus(tile) {
    for (const other of all(tile.closest(".strip"), '.tile[tabindex="0"]')) other.tabIndex = -1;
    tile.tabIndex = 0;
    tile.focus();
    const box = tile.getBoundingClientRect();
    const top = one(tile.closest(".strip"), ".head").getBoundingClientRect().height;
    if (box.top < top || box.bottom > innerHeight) rowOf(tile).scrollIntoView({ block: "center" });
  }

  const KEYS = {
    ArrowUp: (tile) => neighbour(tile, -1, 0),
    ArrowDown: (tile) => neighbour(tile, 1, 0),
    ArrowLeft: (tile) => neighbour(tile, 0, -1),
    ArrowRight: (tile) => neighbour(tile, 0, 1),
    Home: (tile) => shown(tilesOf(rowsOf(tile)[0]))[shown(tilesOf(rowOf(tile))).indexOf(tile)],
    End: (tile) => shown(tilesOf(rowsOf(tile).at(-1)))[shown(tilesOf(rowOf(tile))).indexOf(tile)],
  };
  const MOVES = { up: "ArrowUp", down: "ArrowDown", left: "ArrowLeft", right: "ArrowRight" };

  /** A tile's picture with its column's name and its scores. */
  function enlarged(tile) {
    const box = document.createElement("div");
    box.append(...all(tile, ".who, img, .gone, dl").map((part) => part.cloneNode(true)));
    return box;
  }

  /** The base, and beside it the tile. */
  function enlarge(tile) {
    open = tile;
    const base = tile.closest(".strip").dataset.base ? tilesOf(rowOf(tile))[0] : tile;
    one(zoom, "#zoom-prompt").textContent = one(rowOf(tile), ".prompt p").textContent;
    const pair = base === tile ? [tile] : [base, tile];
    one(zoom, "#zoom-pair").replaceChildren(...pair.map(enlarged));
    if (!zoom.open) zoom.showModal();
  }

  function keys(event) {
    const tile = zoom.open ? open : event.target.closest(".tile");
    if (!tile || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in KEYS) {
      const next = KEYS[event.key](tile);
      if (zoom.open) enlarge(next);
      else focus(next);
    } else if (!zoom.open && (event.key === "Enter" || event.key === " ")) enlarge(tile);
    else return;
    event.preventDefault();
  }

  /** Rows in the order that is asked for; those without the score come last. */
  function sorted(rows, order, gain) {
    const place = (row) => Number(row.dataset.place);
    const sign = order === "loss" ? -1 : 1;
    const key = (row) => (order === "given" ? 0 : -sign * gain(row));
    const last = (row) => (Number.isNaN(key(row)) ? 1 : 0);
    return rows.sort((a, b) => last(a) - last(b) || key(a) - key(b) || place(a) - place(b));
  }

  function gallery(section) {
    const form = one(section, ".tools");
    const strip = one(section, ".strip");
    if (!strip) return;
    const fields = form.elements;
    const rows = all(strip, ".row");
    const number = (name) => Number(fields[name]?.value ?? 0);

    function gain(row) {
      const tiles = tilesOf(row);
      const sign = Number(fields.metric.selectedOptions[0].dataset.sign);
      return sign * (valueOf(tiles[number("column")], number("metric")) - valueOf(tiles[0], number("metric")));
    }

    function showColumns() {
      const boxes = all(form, 'input[name="shown"]');
      if (!boxes.length) return;
      const chosen = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      for (const cell of all(strip, "[data-column]")) cell.hidden = !chosen.has(cell.dataset.column);
      strip.dataset.columns = chosen.size;
    }

    function update() {
      showColumns();
      const task = fields.task?.value ?? "";
      for (const row of rows) row.hidden = Boolean(task) && row.dataset.task !== task;
      strip.append(...sorted(rows, fields.order?.value ?? "given", gain));
      const metric = number("metric");
      for (const list of all(strip, "dl, .names"))
        [...list.children].forEach((line, place) => line.classList.toggle("chosen", place === metric));
      const count = shown(rows).length;
      one(form, "output").textContent = `${count} prompt${count === 1 ? "" : "s"}`;
      const first = count ? shown(tilesOf(one(strip, ".row:not([hidden])")))[0] : null;
      for (const tile of all(strip, '.tile[tabindex="0"]')) tile.tabIndex = -1;
      if (first) first.tabIndex = 0;
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", update);
    strip.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (!tile) return;
      focus(tile);
      enlarge(tile);
    });
    form.hidden = false;
    update();
  }

  for (const section of all(document, ".gallery")) if (one(section, ".tools")) gallery(section);
  if (!zoom) return;
  document.addEventListener("keydown", keys);
  zoom.addEventListener("close", () => {
    if (open && !open.hidden) focus(open);
    open = null;
  });
  zoom.addEventListener("click", (event) => {
    const move = event.target.closest("button")?.dataset.move;
    if (event.target === zoom || move === "close") zoom.close();
    else if (move) enlarge(KEYS[MOVES[move]](open));
  });
})();
