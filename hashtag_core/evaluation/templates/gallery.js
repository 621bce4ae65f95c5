"use strict";
// The gallery: filters run over all posts in memory, a page of them is in the document at a time. Text from the data is only
// ever set as textContent. Keys of a post: i id, u user, c caption, x 1 if the caption is cut, t thumbnail, s status, k slices
// (bits), g true tags, r lists of tags by model, v their scores in thousandths, a where each model looked (a digit a cell).
(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const $ = (id) => document.getElementById(id);
  const PAGE = 24, K = data.k;
  let page = 0, found = [];

  const make = (name, cls, text) => {
    const element = document.createElement(name);
    if (cls) element.className = cls;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const option = (select, value, text) => { const o = make("option", "", text); o.value = value; select.append(o); };
  const plain = (text) => text.normalize("NFKC").toLowerCase();

  for (const post of data.posts) {
    post.truth = new Set(post.g);
    post.words = plain([post.c, post.i, post.u, ...post.g.map((tag) => "#" + data.tags[tag])].join(" "));
    post.hits = post.r.map((list) => list.slice(0, K).filter((tag) => post.truth.has(tag)).length);
    post.f1 = post.r.map((list, m) => 2 * post.hits[m] / (K + post.truth.size));
    const firsts = post.r.map((list) => [...list.slice(0, K)].sort((a, b) => a - b).join(","));
    post.differ = new Set(firsts).size > 1;
  }
  option($("model"), "all", "all models");
  data.models.forEach((name, m) => option($("model"), m, name));
  option($("slice"), "all", "all kinds");
  data.slices.forEach((name, bit) => option($("slice"), bit, name));
  option($("status"), "all", "any status");
  data.statuses.forEach((name, s) => option($("status"), s, name));
  const counts = new Map();
  for (const post of data.posts) for (const tag of post.g) counts.set(tag, (counts.get(tag) || 0) + 1);
  [...counts].sort((a, b) => b[1] - a[1]).slice(0, 500).forEach(([tag]) => { const o = document.createElement("option"); o.value = data.tags[tag]; $("known-tags").append(o); });
  const tells = data.posts.some((post) => post.a);
  $("looking").hidden = $("looks-told").hidden = !tells;
  if (data.models.length < 2) $("disagree").closest("label").hidden = true;

  function filter() {
    const model = $("model").value, slice = $("slice").value, status = $("status").value, order = $("order").value;
    const words = plain($("q").value).split(/\s+/).filter(Boolean);
    const wanted = plain($("tag").value.trim().replace(/^[#＃]/, ""));
    const shown = model === "all" ? data.models.map((_, m) => m) : [Number(model)];
    const tags = wanted ? new Set(data.tags.flatMap((tag, n) => plain(tag).startsWith(wanted) ? [n] : [])) : null;
    found = data.posts.filter((post) =>
      (slice === "all" || (post.k >> Number(slice)) & 1) && (status === "all" || post.s === Number(status)) &&
      (!$("disagree").checked || post.differ) && words.every((word) => post.words.includes(word)) &&
      (!tags || post.g.some((tag) => tags.has(tag)) || shown.some((m) => post.r[m].slice(0, K).some((tag) => tags.has(tag)))));
    if (order !== "given") {
      const mean = (post) => shown.reduce((sum, m) => sum + post.f1[m], 0) / shown.length;
      const judged = found.filter((post) => post.truth.size);
      judged.sort((a, b) => order === "worst" ? mean(a) - mean(b) : mean(b) - mean(a));
      found = [...judged, ...found.filter((post) => !post.truth.size)];
    }
    page = 0;
    show();
  }

  function tagList(tags, hit, scores) {
    const list = make("ul", "tags");
    tags.forEach((tag, place) => {
      const item = make("li", hit(tag) ? "hit" : "", data.tags[tag] + (scores ? " " + (scores[place] / 1000).toFixed(2) : ""));
      item.dir = "auto";
      if (tag >= data.known) { item.classList.add("unseen"); item.title = "outside the vocabulary"; }
      if (hit(tag)) item.setAttribute("aria-label", data.tags[tag] + ", true");
      list.append(item);
    });
    if (!tags.length) list.append(make("li", "", "none"));
    return list;
  }

  // The cells of the grid lie over the picture, however it was squashed to a square for the model; the browser blends between them.
  // A grey veil, thinner the more a cell is looked at, is seen on black as on white, and leaves what is looked at its own colours.
  function lookedAt(image, digits, name) {
    const side = Math.round(Math.sqrt(digits.length)), frame = make("span", "seen"), canvas = make("canvas");
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), pixels = context.createImageData(side, side);
    [...digits].forEach((digit, cell) => pixels.data.set([128, 128, 128, (9 - Number(digit)) * 24], 4 * cell));
    context.putImageData(pixels, 0, 0);
    canvas.setAttribute("aria-hidden", "true");
    image.alt += ", with where " + name + " looks";
    image.replaceWith(frame);
    frame.append(image, canvas, make("span", "by", name));
  }

  function card(post) {
    const item = make("li", "card"), head = make("header");
    if (post.t >= 0) {
      const image = make("img");
      image.alt = "picture of post " + post.i; image.loading = "lazy"; image.decoding = "async";
      image.src = "data:image/webp;base64," + data.thumbnails[post.t];
      head.append(image);
    } else head.append(make("div", "blank", post.t === -1 ? "no picture" : "picture not shown"));
    const text = make("p", "text", post.c === "" ? "(no caption)" : post.c + (post.x ? " …" : ""));
    text.dir = "auto"; text.tabIndex = 0;
    head.append(text);
    item.append(head, make("p", "meta", [post.i, post.u && "by " + post.u, data.statuses[post.s]].filter(Boolean).join(" · ")));
    const given = new Set(), model = $("model").value;
    const shown = model === "all" ? data.models.map((_, m) => m) : [Number(model)];
    for (const m of shown) for (const tag of post.r[m].slice(0, K)) given.add(tag);
    const looker = tells && $("looks").checked && post.a ? shown.find((m) => post.a[m]) : undefined;
    if (looker !== undefined && post.t >= 0) lookedAt(head.firstChild, post.a[looker], data.models[looker]);
    item.append(make("h4", "", "the author's own"), tagList(post.g, (tag) => given.has(tag)));
    for (const m of shown) {
      item.append(make("h4", "", data.models[m] + (post.truth.size ? " · " + post.hits[m] + " of " + Math.min(K, post.truth.size) : "")));
      item.append(tagList(post.r[m].slice(0, K), (tag) => post.truth.has(tag), post.v[m]));
    }
    return item;
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    $("cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
    $("where").textContent = found.length ? (page * PAGE + 1) + "–" + Math.min(found.length, (page + 1) * PAGE) + " of " + found.length + " posts" : "no post fits";
    $("previous").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
  }

  const turn = (by) => { const before = page; page += by; show(); if (page !== before) $("filters").scrollIntoView({block: "start"}); };
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  let waiting;
  $("filters").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); });
  $("filters").addEventListener("reset", () => setTimeout(filter));
  $("filters").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLElement && event.target.matches("input,select,textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") { event.preventDefault(); $("q").focus(); }
    else if (event.key === "n") turn(1);
    else if (event.key === "p") turn(-1);
  });
  filter();
})();
