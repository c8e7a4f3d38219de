// The page of a collection: search by a picture, or look through its duplicates.

const byId = (id) => document.getElementById(id);
const GROUPS_AT_ONCE = 20;

/** What is shown: a picture of the collection (`like`), a file, or duplicates. */
const state = { view: "search", like: null, file: null, about: null, request: 0, groups: 0 };

/** Return the JSON of an answer, or throw its error message. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(describe(content.detail) ?? `The server says ${answer.status}.`);
  return content;
}

function describe(detail) {
  if (Array.isArray(detail)) return detail.map((one) => one.msg).join(" ");
  return detail;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const count = (number, singular, plural = `${singular}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? singular : plural}`;

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

const pictureOf = (image, size) => `api/images/${image.id}/picture?size=${size}`;

/** Return a button with a picture: press it to search by it. */
function pictureButton(image, { distance = null, keep = false } = {}) {
  const lines = [element("span", { textContent: image.name })];
  if (image.label !== null) lines.push(element("span", { textContent: image.label, className: "quiet" }));
  if (distance !== null) {
    const text = `distance ${distance} of ${state.about.code_length}`;
    lines.push(element("span", { textContent: text, className: "quiet" }));
  }
  if (keep) lines.push(element("span", { textContent: "keep", className: "keep" }));
  const picture = element("img", { src: pictureOf(image, 320), alt: "", loading: "lazy" });
  const button = element("button", { type: "button", className: "picture" }, picture, ...lines);
  button.classList.toggle("keep", keep);
  button.title = `Search by ${image.name}`;
  button.addEventListener("click", () => searchBy({ like: image.id }));
  return element("li", {}, button);
}

const pictures = (buttons) => element("ul", { className: "pictures" }, ...buttons);

/** Run what fetches and shows something; only the latest shows, and says what went wrong. */
async function run(waiting, work) {
  const request = ++state.request;
  byId("status").textContent = waiting;
  byId("error").hidden = true;
  byId("results").setAttribute("aria-busy", "true");
  try {
    const show = await work();
    if (request === state.request) show();
  } catch (error) {
    if (request !== state.request) return;
    byId("status").textContent = "";
    byId("error").textContent = error.message;
    byId("error").hidden = false;
  } finally {
    if (request === state.request) byId("results").removeAttribute("aria-busy");
  }
}

function searchOptions() {
  const options = new URLSearchParams({ k: byId("k").value });
  const radius = Number(byId("radius").value);
  if (radius < state.about.code_length) options.set("radius", radius);
  if (byId("label").value) options.set("label", byId("label").value);
  return options;
}

function search() {
  if (state.like === null && state.file === null) return;
  return run("Searching …", async () => {
    const options = searchOptions();
    let answer;
    if (state.file === null) {
      answer = await ask(`api/images/${state.like}/similar?${options}`);
    } else {
      const body = new FormData();
      body.append("image", state.file);
      answer = await ask(`api/search?${options}`, { method: "POST", body });
    }
    return () => showMatches(answer);
  });
}

function showMatches(answer) {
  const found = answer.matches.length ? count(answer.matches.length, "picture") : "Nothing";
  const encoding = answer.encode_ms === null ? "" : `, after ${milliseconds(answer.encode_ms)} to encode the query`;
  byId("status").textContent =
    `${found} found in ${milliseconds(answer.search_ms)} among ${count(answer.size, "image")}${encoding}.`;
  const buttons = answer.matches.map((match) => pictureButton(match.image, { distance: match.distance }));
  byId("results").replaceChildren(pictures(buttons));
}

/** Search by a picture of the collection, or by a file. */
function searchBy({ like = null, file = null }, { remember = true } = {}) {
  Object.assign(state, { like, file });
  showPreview();
  showView("search");
  if (remember) history.pushState({ like }, "", like === null ? "?" : `?like=${like}`);
  window.scrollTo({ top: 0 });
  return search();
}

function showPreview() {
  const preview = byId("preview");
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.hidden = state.like === null && state.file === null;
  if (preview.hidden) return;
  preview.src = state.file === null ? pictureOf({ id: state.like }, 320) : URL.createObjectURL(state.file);
  preview.alt = state.file === null ? "The picture that is searched by" : `The query ${state.file.name}`;
  preview.onerror = () => { preview.hidden = true; }; // a browser shows fewer formats than the server reads
}

function showView(view) {
  state.view = view;
  for (const name of ["search", "duplicates"]) {
    byId(name).hidden = name !== view;
    byId(`show-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  byId("more").hidden = true;
  byId("results").replaceChildren();
  byId("status").textContent = "";
  byId("error").hidden = true;
}

function duplicates(offset = 0) {
  const radius = byId("alike").value;
  byId("csv").href = `api/duplicates.csv?radius=${radius}`;
  return run("Comparing all pictures …", async () => {
    const options = new URLSearchParams({ radius, offset, limit: GROUPS_AT_ONCE });
    const answer = await ask(`api/duplicates?${options}`);
    return () => showGroups(answer, offset);
  });
}

function showGroups(answer, offset) {
  byId("status").textContent =
    `${count(answer.num_groups, "group")} of ${count(answer.num_images, "picture")} that look alike.`;
  const groups = answer.groups.map((group, place) => {
    const heading = element("h2", { textContent: `Group ${offset + place + 1}: ${count(group.images.length, "picture")}` });
    const buttons = group.images.map((image) => pictureButton(image, { keep: image.id === group.keep }));
    return element("section", {}, heading, pictures(buttons));
  });
  if (offset === 0) byId("results").replaceChildren();
  byId("results").append(...groups);
  state.groups = offset + groups.length;
  byId("more").hidden = state.groups >= answer.num_groups;
}

/** Call a function once the calls have paused, as while a slider moves. */
function paused(callback, wait = 150) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(callback, wait);
  };
}

function setSliders() {
  const bits = state.about.code_length;
  const within = (value) => (Number(value) >= bits ? "any" : `up to ${value} of ${bits} bits`);
  const sliders = [["radius", "radius-shown", bits, bits, search], ["alike", "alike-shown", bits >> 2, bits >> 4, duplicates]];
  for (const [id, shown, max, value, changed] of sliders) {
    const slider = byId(id);
    Object.assign(slider, { max, value });
    const show = () => { byId(shown).textContent = within(slider.value); };
    const later = paused(() => changed());
    slider.addEventListener("input", () => { show(); later(); });
    show();
  }
}

function fillLabels() {
  byId("label-control").hidden = state.about.labels.length === 0;
  const options = state.about.labels.map((label) =>
    element("option", { value: label.value, textContent: `${label.value} (${label.count.toLocaleString("en")})` }));
  byId("label").append(...options);
}

function listenForPictures() {
  const take = (files) => {
    if (files.length) searchBy({ file: files[0] });
  };
  byId("file").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
}

function fromAddress() {
  const like = new URLSearchParams(location.search).get("like");
  if (like !== null) return searchBy({ like }, { remember: false });
  Object.assign(state, { like: null, file: null });
  showPreview();
  showView("search");
  byId("status").textContent = "Or press a picture to search by it.";
  return run("", async () => {
    const answer = await ask("api/images?limit=24");
    return () => {
      byId("status").textContent = "Or press one of these to search by it.";
      byId("results").replaceChildren(pictures(answer.images.map((image) => pictureButton(image))));
    };
  });
}

async function start() {
  state.about = await ask("api/collection");
  document.title = `${state.about.name}: picture search`;
  byId("summary").textContent = `${state.about.name}: ${count(state.about.size, "image")}, ${state.about.code_length} bits each`;
  setSliders();
  fillLabels();
  listenForPictures();
  byId("query").addEventListener("submit", (event) => event.preventDefault());
  byId("k").addEventListener("change", search);
  byId("label").addEventListener("change", search);
  byId("show-search").addEventListener("click", () => { history.pushState({}, "", "?"); fromAddress(); });
  byId("show-duplicates").addEventListener("click", () => { showView("duplicates"); duplicates(); });
  byId("more").addEventListener("click", () => duplicates(state.groups));
  window.addEventListener("popstate", fromAddress);
  await fromAddress();
}

start().catch((error) => {
  byId("error").textContent = error.message;
  byId("error").hidden = false;
});
