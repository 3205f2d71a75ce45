// One label after the other: yes, no, cannot tell, skip, undo, add. The server keeps the decisions.

const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
const AHEAD = 4; // photographs that are loaded before they are shown
let questions = []; // [row, c, probability, what the data say] of the chosen kind and class
let decided = new Map(); // "row,c" -> value
let skipped = new Set();
let place = 0;
let state = { num_changed: 0, can_undo: false, file: "" };
let busy = false;
let choice = 0; // number of the last one

const key = ([row, c]) => `${row},${c}`;
const current = () => questions[place];

async function asked(address, body) {
  const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address, how);
  } catch {
    throw new Error("grigri-fast serve does not answer: has it ended?");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let why = text;
    try { why = JSON.parse(text).error; } catch { /* it is text already */ }
    throw new Error(why);
  }
  return answer.json();
}

function take(newState) {
  state = newState;
  decided = new Map(state.decided.map(([row, c, value]) => [`${row},${c}`, value]));
}

// ------------------------------------------------------------------------- what is shown

function nextOpen(from) {
  let i = from;
  while (i < questions.length && (decided.has(key(questions[i])) || skipped.has(key(questions[i])))) {
    i += 1;
  }
  return i;
}

function show() {
  const total = questions.length;
  const done = questions.filter((q) => decided.has(key(q))).length;
  const changed = state.num_changed === 1 ? "1 label changed" : `${state.num_changed} labels changed`;
  at("progress").textContent = `${done} of ${total} decided, ${changed}`;
  at("file").textContent = state.file;
  at("undo").disabled = !state.can_undo;
  const isOver = place >= total;
  at("review").hidden = isOver;
  at("done").hidden = !isOver;
  if (isOver) {
    const rest = questions.filter((q) => skipped.has(key(q)) && !decided.has(key(q))).length;
    at("done").textContent = total === 0
      ? "There is nothing of this kind."
      : `That was the last one; ${rest} skipped. Choose another class or kind above, or reload to see what was skipped.`;
    return;
  }
  const [row, c, probability, given] = current();
  const name = about.classes[c];
  at("question").textContent = `Does it show ${name}?`;
  const percent = (100 * probability).toFixed(probability < 0.1 || probability > 0.9 ? 1 : 0);
  at("evidence").textContent = `The data say ${given === "1" ? "yes" : "no"}, the model ${percent} %.`;
  at("name").textContent = about.names[row] ?? "";
  at("problem").textContent = "";
  showPhoto(row, name);
  showLabels(row);
  for (const [next] of questions.slice(place + 1, place + 1 + AHEAD)) new Image().src = `/photo/${next}`;
}

function showPhoto(row, name) {
  const photo = at("photo");
  const address = `/photo/${row}`;
  if (photo.getAttribute("src") === address) return;
  photo.hidden = false;
  at("missing").hidden = true;
  photo.alt = `${about.names[row] ?? "photograph"}; is it ${name}?`;
  photo.onerror = async () => {
    photo.hidden = true;
    at("missing").hidden = false;
    try {
      await asked(address);
    } catch (error) {
      at("missing").textContent = error.message;
    }
  };
  photo.src = address;
}

async function showLabels(row) {
  const labels = await asked(`/labels/${row}`).catch(() => []);
  if (!current() || current()[0] !== row) return;
  at("labels").replaceChildren(...labels.map(({ c, name, value, is_changed }) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const isOn = value === "1";
    button.type = "button";
    button.textContent = value === "unknown" ? `${name}?` : name;
    button.className = `${isOn ? "" : "removed"} ${is_changed ? "changed" : ""}`;
    button.setAttribute("aria-pressed", isOn);
    button.title = isOn ? "Remove this label" : "Add this label";
    button.addEventListener("click", () => decide(row, c, isOn ? "0" : "1", false));
    item.append(button);
    return item;
  }));
}

// ------------------------------------------------------------------------------ decisions

async function guarded(work) {
  if (busy) return; // a key that is held down decides once
  busy = true;
  try {
    await work();
  } catch (error) {
    at("problem").textContent = error.message;
  } finally {
    busy = false;
  }
}

function decide(row, c, value, goOn) {
  return guarded(async () => {
    take(await asked("/review/decide", { row, c, value }));
    if (goOn) {
      skipped.delete(`${row},${c}`);
      place = nextOpen(place);
    }
    show();
  });
}

const answer = (value) => {
  if (current()) decide(current()[0], current()[1], value, true);
};

function skip() {
  if (!current() || busy) return;
  skipped.add(key(current()));
  place = nextOpen(place);
  show();
}

function undo() {
  return guarded(async () => {
    const said = await asked("/review/undo", {});
    take(said);
    if (said.undone) {
      const back = questions.findIndex((q) => key(q) === said.undone.join(","));
      if (back >= 0) place = back;
    }
    show();
  });
}

function add(event) {
  event.preventDefault();
  const wanted = at("label").value.trim();
  if (!wanted || !current()) return;
  const c = about.classes.findIndex((name) => name.toLowerCase() === wanted.toLowerCase());
  if (c < 0) {
    at("problem").textContent = `There is no class ${wanted}.`;
    return;
  }
  at("label").value = "";
  at("label").blur();
  decide(current()[0], c, "1", c === current()[1]);
}

// ------------------------------------------------------------------------------- choices

async function choose() {
  const kind = at("kind").value, only = at("only").value;
  const mine = (choice += 1);
  questions = []; // a key that comes too early answers nothing
  const all = await asked(`/review/questions?kind=${encodeURIComponent(kind)}`);
  const now = await asked("/review/state");
  if (mine !== choice) return; // another choice has been made since
  const counts = new Map();
  for (const [, c] of all) counts.set(c, (counts.get(c) ?? 0) + 1);
  const options = [["", `all classes (${all.length})`]];
  about.classes.forEach((name, c) => {
    if (counts.has(c)) options.push([String(c), `${name} (${counts.get(c)})`]);
  });
  at("only").replaceChildren(...options.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
  at("only").value = options.some(([value]) => value === only) ? only : "";
  questions = all.filter(([, c]) => at("only").value === "" || c === Number(at("only").value));
  take(now);
  place = nextOpen(0);
  show();
}

const start = () => choose().catch((error) => { at("progress").textContent = error.message; });
at("kind").addEventListener("change", () => { at("only").value = ""; start(); });
at("only").addEventListener("change", start);
// Another tab may have decided in the meantime.
addEventListener("focus", () => guarded(async () => {
  if (!questions.length) return;
  take(await asked("/review/state"));
  if (current() && decided.has(key(current()))) place = nextOpen(place);
  show();
}));

const keys = { y: () => answer("1"), n: () => answer("0"), u: () => answer("unknown"), s: skip, z: undo };
for (const [id, letter] of [["yes", "y"], ["no", "n"], ["unknown", "u"], ["skip", "s"], ["undo", "z"]]) {
  at(id).addEventListener("click", keys[letter]);
}
at("add").addEventListener("submit", add);
at("label").addEventListener("keydown", (event) => {
  if (event.key === "Escape") at("label").blur();
});
addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const letter = event.key.toLowerCase();
  if (letter === "a" || letter === "/") {
    event.preventDefault();
    at("label").focus();
  } else if (letter in keys) {
    event.preventDefault();
    keys[letter]();
  }
});
for (const name of about.classes) {
  const option = document.createElement("option");
  option.value = name;
  at("classes").append(option);
}
start();
