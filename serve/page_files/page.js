// Talks to the same calls as everybody else; the key stays in this tab.
const $ = (id) => document.getElementById(id);
const chosen = {};
const shown = {};
let turn = 0;

const RELATIONS = { exact: "the same file", reencoded: "the same picture, encoded or scaled anew", edited: "an edited copy", scene: "the same scene, another view" };

function keyAtStart() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    sessionStorage.setItem("key", given);
    history.replaceState(null, "", location.pathname);
  }
  $("key").value = sessionStorage.getItem("key") || "";
  $("who").addEventListener("submit", (event) => { event.preventDefault(); $("key").blur(); });
  $("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value.trim()); ask(); });
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { Authorization: `Bearer ${$("key").value.trim()}` } });
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new Error(said?.error?.message || `the server answered ${answer.status}`);
  }
  return answer;
}

function mode() { return $("tab-search").getAttribute("aria-selected") === "true" ? "search" : "compare"; }

function show(part) {
  for (const name of ["compare", "search"]) {
    const on = name === part;
    $(`tab-${name}`).setAttribute("aria-selected", String(on));
    $(`tab-${name}`).tabIndex = on ? 0 : -1;
    $(name).hidden = !on;
  }
  ask();
}

function take(zone, file) {
  const name = zone.dataset.name;
  chosen[name] = file;
  if (shown[name]) URL.revokeObjectURL(shown[name]);
  shown[name] = URL.createObjectURL(file);
  const img = zone.querySelector("img"), text = zone.querySelector("span");
  img.onload = () => { img.hidden = false; text.hidden = true; };
  img.onerror = () => { img.hidden = true; text.hidden = false; text.textContent = `${file.name} (no preview here)`; };
  img.alt = file.name;
  img.src = shown[name];
  ask();
}

async function ask() {
  const now = ++turn;
  $("result").hidden = $("matches").hidden = true;
  const names = mode() === "compare" ? ["a", "b"] : ["image"];
  if (!names.every((name) => chosen[name])) { say(""); return; }
  if (!$("key").value.trim()) { say("Give the API key above.", true); return; }
  say("Looking…");
  const body = new FormData();
  for (const name of names) body.append(name, chosen[name]);
  try {
    const answer = await (await call(mode() === "compare" ? "v1/compare" : "v1/query", { method: "POST", body })).json();
    if (now !== turn) return;
    say("");
    if (mode() === "compare") tell(answer); else list(answer);
  } catch (error) {
    if (now === turn) say(error.message, true);
  }
}

function why(answer) {
  const e = answer.evidence, said = [];
  const percent = (x) => `${Math.round(100 * x)} %`;
  if (e.decision) said.push(`a person called them ${e.decision === "duplicate" ? "duplicates" : "distinct"}`);
  if (answer.relation === "exact") { said.push("every byte is the same"); return said; }
  if (e.inliers !== undefined) {
    said.push(e.inliers ? `${e.inliers} keypoints agree on how one lies in the other` : "no common arrangement of keypoints was found");
    if (e.inliers && e.overlap_left !== undefined) said.push(`the second shows ${percent(e.overlap_left)} of the first, the first ${percent(e.overlap_right)} of the second`);
    if (e.mirrored) said.push("one is mirrored");
    if (e.transform && e.agreement !== undefined) said.push(`laid over one another, ${percent(e.agreement)} of what both show agrees`);
  }
  said.push(`distance of the embeddings ${answer.distance.toFixed(2)} (0 the same, about 1 unrelated)`);
  if (e.hash_bits !== undefined) said.push(`${e.hash_bits} of 256 bits of the perceptual hashes differ`);
  return said;
}

function words(answer) {
  if (answer.duplicate) return "Duplicates";
  return answer.score >= 0.5 && answer.evidence.decision !== "distinct" ? "Probably duplicates" : "Not duplicates";
}

function badge(node, answer) {
  node.textContent = answer.relation ? RELATIONS[answer.relation] : "nothing shared was found";
  node.classList.toggle("yes", answer.duplicate);
}

function tell(answer) {
  $("verdict").textContent = words(answer);
  badge($("relation"), answer);
  $("score").value = answer.score;
  $("value").textContent = `${answer.score.toFixed(3)} (accepted from ${answer.threshold})`;
  $("why").replaceChildren(...why(answer).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  $("result").hidden = false;
  align(answer.relation === "exact" ? [[1, 0, 0], [0, 1, 0], [0, 0, 1]] : answer.evidence.transform);
}

// The transform takes [0, 1]² of the first picture to [0, 1]² of the second; both images are laid out at one size.
function align(transform) {
  $("aligned").hidden = !transform;
  if (!transform) return;
  const under = $("under"), over = $("over");
  const place = () => {
    const w = under.clientWidth, h = under.clientHeight;
    over.style.width = `${w}px`;
    over.style.height = `${h}px`;
    const [[a, b, c], [d, e, f], [g, i, j]] = transform;
    const m = [a, (d * h) / w, 0, g / w, (b * w) / h, e, 0, i / h, 0, 0, 1, 0, c * w, f * h, 0, j];
    over.style.transform = `matrix3d(${m.map((x) => x / j).map((x) => x.toFixed(9)).join(",")})`;
    over.style.opacity = $("blend").value / 100;
  };
  under.onload = place;
  over.onload = place;
  under.src = shown.b;
  over.src = shown.a;
  $("blend").oninput = place;
  window.onresize = place;
}

function list(answer) {
  $("matches").hidden = false;
  const items = answer.matches.map((match) => {
    const item = document.createElement("li"), img = document.createElement("img");
    const title = Object.assign(document.createElement("p"), { textContent: match.id });
    const said = Object.assign(document.createElement("p"), { textContent: `${words(match)}, score ${match.score.toFixed(3)}` });
    const mark = document.createElement("span");
    mark.className = "badge";
    badge(mark, match);
    const small = Object.assign(document.createElement("p"), { className: "small", textContent: why(match).slice(0, 2).join(" · ") });
    img.alt = match.id;
    picture(img, match.id);
    item.append(img, title, said, mark, small);
    return item;
  });
  $("matches").querySelector("ol").replaceChildren(...items);
  say(answer.matches.length ? (answer.duplicate ? "This picture is there already." : "No duplicate; the nearest are:") : "The index has nothing like it.");
}

async function picture(img, id) {
  try {
    const blob = await (await call(`v1/pictures/${encodeURIComponent(id)}`)).blob();
    img.src = URL.createObjectURL(blob);
    img.onload = () => URL.revokeObjectURL(img.src);
  } catch { img.hidden = true; }
}

function start() {
  keyAtStart();
  for (const zone of document.querySelectorAll(".drop")) {
    zone.querySelector("input").addEventListener("change", (event) => event.target.files[0] && take(zone, event.target.files[0]));
    zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      if (event.dataTransfer.files[0]) take(zone, event.dataTransfer.files[0]);
    });
  }
  for (const name of ["compare", "search"]) {
    $(`tab-${name}`).addEventListener("click", () => show(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      const other = name === "compare" ? "search" : "compare";
      show(other);
      $(`tab-${other}`).focus();
    });
  }
}
start();
