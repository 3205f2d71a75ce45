// One label after the other: yes, no, cannot tell, skip, undo, add. The server keeps the decisions.

const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
const AHEAD = 4; // photographs that are loaded before they are shown
// [row, c, probability or null, what the data say, name] of the chosen kind and class; of two that
// show nearly the same also [..., row, what the data say, name] of the other one.
let questions = [];
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
    throw Object.assign(new Error(why), { status: answer.status });
  }
  return answer.json();
}

// Take what the server says of decisions: all that there are, or those that are new.
function take(newState, isAll) {
  state = newState;
  if (isAll) decided = new Map();
  for (const [row, c, value] of state.decisions) {
    if (value === "given") decided.delete(`${row},${c}`);
    else decided.set(`${row},${c}`, value);
  }
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
  const [row, c, probability, given, file, twin, givenTwin, fileTwin] = current();
  const name = about.classes[c], isPair = twin !== undefined;
  at("question").textContent = isPair ? `Do they show ${name}?` : `Does it show ${name}?`;
  const word = (value) => (value === "1" ? "yes" : "no");
  const said = isPair
    ? `These two are nearly the same. The data say ${word(given)} of the first, ${word(givenTwin)} of the second`
    : `The data say ${word(given)}`;
  const percent = (100 * probability).toFixed(probability < 0.1 || probability > 0.9 ? 1 : 0);
  at("evidence").textContent = probability === null ? `${said}.` : `${said}, the model ${percent} %${isPair ? " of the first" : ""}.`;
  at("problem").textContent = "";
  at("twin").hidden = at("both").hidden = !isPair;
  at("pair").classList.toggle("pair", isPair);
  at("more").hidden = isPair; // labels are added to one photograph, and here are two
  showPhoto("", row, file, name);
  if (isPair) showPhoto("-twin", twin, fileTwin, name);
  else showLabels(row);
  for (const [next, , , , , other] of questions.slice(place + 1, place + 1 + AHEAD)) {
    for (const one of [next, other]) if (one !== undefined) new Image().src = `/photo/${one}`;
  }
}

function showPhoto(which, row, file, name) {
  const photo = at(`photo${which}`), missing = at(`missing${which}`);
  const address = `/photo/${row}`;
  at(`name${which}`).textContent = file;
  photo.alt = `${file}; is it ${name}?`;
  if (photo.getAttribute("src") === address) return;
  photo.hidden = false;
  missing.hidden = true;
  photo.onerror = async () => {
    photo.hidden = true;
    missing.hidden = false;
    try {
      await asked(address);
    } catch (error) {
      missing.textContent = error.message;
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
    button.addEventListener("click", () => decide([{ row, c, value: isOn ? "0" : "1" }], false));
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

function decide(decisions, goOn) {
  return guarded(async () => {
    try {
      take(await asked("/review/decide", decisions));
    } catch (error) {
      if (error.status !== 409) throw error;
      take(await asked("/review/state"), true); // another tab was faster: go on after its answer
      place = nextOpen(place);
      show();
      throw error;
    }
    if (goOn) {
      for (const one of decisions) skipped.delete(key([one.row, one.c]));
      place = nextOpen(place);
    }
    show();
  });
}

const before = (row, c) => decided.get(key([row, c])) ?? "given";

// Say something of the photographs in question; of two, of the one that the question counts for last.
function say(value, ofTwin) {
  const [row, c, , , , twin] = current();
  const decisions = twin === undefined ? [] : [{ row: twin, c, value: ofTwin }];
  decisions.push({ row, c, value, before: before(row, c) });
  return decide(decisions, true);
}

const answer = (value) => {
  if (current()) say(value, value);
};

function both() { // both are right as the data have them
  if (current() && current()[5] !== undefined) say(current()[3], current()[6]);
}

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
    const undone = said.decisions.map(([row, c]) => `${row},${c}`);
    const back = questions.findIndex((q) => undone.includes(key(q)));
    if (back >= 0) place = back;
    show();
  });
}

function add(event) {
  event.preventDefault();
  const wanted = at("label").value.trim();
  if (!wanted || !current() || current()[5] !== undefined) return;
  const c = about.classes.findIndex((name) => name.toLowerCase() === wanted.toLowerCase());
  if (c < 0) {
    at("problem").textContent = `There is no class ${wanted}.`;
    return;
  }
  at("label").value = "";
  at("label").blur();
  decide([{ row: current()[0], c, value: "1" }], c === current()[1]);
}

// ------------------------------------------------------------------------------- choices

async function choose() {
  const kind = at("kind").value, only = at("only").value;
  const mine = (choice += 1);
  questions = []; // a key that comes too early answers nothing
  at("review").hidden = at("done").hidden = true;
  let all = await asked(`/review/questions?kind=${encodeURIComponent(kind)}`);
  while (!Array.isArray(all)) { // they are looked for
    if (mine !== choice) return;
    at("progress").textContent = `${all.words}: ${Math.round(100 * all.share)} %`;
    await new Promise((resolve) => setTimeout(resolve, 700));
    all = await asked(`/review/questions?kind=${encodeURIComponent(kind)}`);
  }
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
  take(now, true);
  place = nextOpen(0);
  show();
}

const start = () => choose().catch((error) => { at("progress").textContent = error.message; });
at("kind").addEventListener("change", () => { at("only").value = ""; start(); });
at("only").addEventListener("change", start);
// Another tab may have decided in the meantime.
addEventListener("focus", () => guarded(async () => {
  if (!questions.length) return;
  take(await asked("/review/state"), true);
  if (current() && decided.has(key(current()))) place = nextOpen(place);
  show();
}));

const keys = { y: () => answer("1"), n: () => answer("0"), u: () => answer("unknown"), s: skip, b: both, z: undo };
for (const [id, letter] of [["yes", "y"], ["no", "n"], ["unknown", "u"], ["skip", "s"], ["both", "b"], ["undo", "z"]]) {
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
    if (at("more").hidden) return;
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
