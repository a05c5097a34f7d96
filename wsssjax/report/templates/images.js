// The table of images: sorts, filters and turns the pages of the rows in #images-data.
// Every text is set as text, never as HTML: ids and class names come from files of others.
"use strict";
(() => {
  const find = (name) => document.getElementById("images-" + name);
  const data = JSON.parse(find("data").textContent);
  const table = document.getElementById("table-images");
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th[data-key]")];
  const keys = heads.map((head) => head.dataset.key);
  const hasPictures = Object.keys(data.pictures).length > 0;
  const state = { key: "rank", down: false, page: 0, rows: [] };
  const DOWN_FIRST = new Set(["iou", "score", "quality", "selected"]);

  const lower = { id: data.id.map((id) => id.toLowerCase()), why: data.words.map((w) => w.toLowerCase()) };
  const classText = data.classes.map((row) => row.map((k) => data.names[k]).join(", "));

  // What a column is sorted by; null goes to the end both ways.
  const sortKeys = {
    classes: (row) => classText[row] || null,
    why: (row) => data.words[data.why[row]],
  };
  const valueOf = (key) => sortKeys[key] || ((row) => data[key][row]);

  function sorted(rows) {
    const value = valueOf(state.key);
    const sign = state.down ? -1 : 1;
    return rows.sort((i, j) => {
      const a = value(i), b = value(j);
      if (a === b) return i - j; // rows stand by rank
      if (a === null) return 1;
      if (b === null) return -1;
      return a < b ? -sign : sign;
    });
  }

  function matching() {
    const text = find("text").value.trim().toLowerCase();
    const pick = (name) => find(name).value === "" ? null : Number(find(name).value);
    const cls = pick("class"), selected = pick("selected"), reason = pick("reason"), group = pick("group");
    const whyFits = lower.why.map((words) => words.includes(text));
    const rows = [];
    for (let row = 0; row < data.id.length; row++) {
      if (text && !lower.id[row].includes(text) && !whyFits[data.why[row]]) continue;
      if (cls !== null && !data.classes[row].includes(cls)) continue;
      if (selected !== null && data.selected[row] !== selected) continue;
      if (reason !== null && data.reason[row] !== reason) continue;
      if (group !== null && !(data.group[row] & (1 << group))) continue;
      rows.push(row);
    }
    return rows;
  }

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function picture(uri, alt, under) {
    const image = element("img", under ? "over" : "");
    image.src = uri;
    image.alt = alt;
    if (under) image.style.backgroundImage = `url("${under}")`;
    return image;
  }

  function pictures(row) {
    const cell = element("td", "word thumbs");
    const [photo, pool, first] = data.pictures[row] || ["", "", ""];
    const id = data.id[row];
    if (photo) cell.append(picture(photo, `photo ${id}`));
    if (pool) cell.append(picture(pool, `label of ${id}: ${classText[row] || "background only"}`, photo));
    if (first) cell.append(picture(first, `compared label of ${id}`, photo));
    return cell;
  }

  function classes(row) {
    const cell = element("td", "word wide");
    data.classes[row].forEach((k, i) => {
      const iou = data.classIou[row][i];
      const chip = element("span", "chip");
      chip.style.background = data.colors[k];
      const item = element("span", "class");
      item.append(chip, data.names[k] + (iou === null ? "" : " " + iou.toFixed(2)));
      cell.append(item, " ");
    });
    return cell;
  }

  const number = (value, digits) => value === null ? "–" : value.toFixed(digits);
  const cells = {
    id: (row) => { const cell = element("th", "word", data.id[row]); cell.scope = "row"; return cell; },
    selected: (row) => element("td", "word", data.selected[row] ? "✓ yes" : "no"),
    rank: (row) => element("td", "", data.rank[row].toLocaleString("en")),
    iou: (row) => element("td", "", number(data.iou[row], 3)),
    score: (row) => element("td", "", number(data.score[row], 3)),
    quality: (row) => element("td", "", number(data.quality[row], 3)),
    classes,
    why: (row) => element("td", "word wide", data.words[data.why[row]]),
  };

  function draw() {
    const size = Number(find("size").value);
    const pages = Math.max(1, Math.ceil(state.rows.length / size));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const start = state.page * size;
    const shown = state.rows.slice(start, start + size);
    body.replaceChildren(...shown.map((row) => {
      const line = element("tr");
      if (hasPictures) line.append(pictures(row));
      line.append(...keys.map((key) => cells[key](row)));
      return line;
    }));
    const count = state.rows.length.toLocaleString("en");
    find("status").textContent = shown.length
      ? `${(start + 1).toLocaleString("en")} to ${(start + shown.length).toLocaleString("en")} of ${count} images`
      : "no image fits";
    find("back").disabled = state.page === 0;
    find("next").disabled = state.page === pages - 1;
    for (const head of heads) {
      if (head.dataset.key === state.key) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  function again() {
    state.rows = sorted(matching());
    state.page = 0;
    draw();
  }

  for (const head of heads) {
    head.firstElementChild.addEventListener("click", () => {
      const key = head.dataset.key;
      state.down = state.key === key ? !state.down : DOWN_FIRST.has(key);
      state.key = key;
      again();
    });
  }
  const filters = find("filters");
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", again);
  filters.addEventListener("reset", () => setTimeout(again)); // once the fields are empty
  find("back").addEventListener("click", () => { state.page--; draw(); });
  find("next").addEventListener("click", () => { state.page++; draw(); });
  if (!hasPictures) find("pictures").remove();
  filters.hidden = false;
  again();
})();
