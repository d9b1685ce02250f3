// The dashboard: told once a second by /stream, asks for details only where somebody looks.
import { Table, make, write } from "/page/table.js";

const $ = (id) => document.getElementById(id);
const HOUR_POINTS = 360;
const POINT_SECONDS = 10;
const ROWS_STEP = 100;
const ROWS_MAX = 1000;
const LOST_AFTER_MS = 4000;
const AGAIN_MS = 1000;
const DETAILS_MS = 2000;
const BROKERS_MS = 5000;
const CLIENTS_MS = 5000;

// ---- words ------------------------------------------------------------------------------------------------------------

const SIGNS = { mirroring: "✓", starting: "…", catching_up: "↻", paused: "‖", stalled: "✕", unreachable: "⚠" };
const words = (state) => state.replaceAll("_", " ");
const sign = (state) => `${SIGNS[state] ?? "?"} ${words(state)}`;
const count = (number) => Math.round(number).toLocaleString("en");

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (number >= 1024 && at < units.length - 1) { number /= 1024; at += 1; }
  return `${number.toFixed(at > 0 && number < 100 ? 1 : 0)} ${units[at]}`;
}

function seconds(number) {
  if (number === 0) return "0 s";
  if (number < 0.9995) return `${(number * 1000).toFixed(number < 0.01 ? 1 : 0)} ms`;
  if (number < 120) return `${number.toFixed(number < 10 ? 1 : 0)} s`;
  if (number < 7200) return `${(number / 60).toFixed(0)} min`;
  if (number < 172800) return `${(number / 3600).toFixed(1)} h`;
  return `${(number / 86400).toFixed(1)} d`;
}

const wait = (rates) => rates.caught_up_in_seconds === null ? "not shrinking"
  : rates.caught_up_in_seconds === 0 ? "now" : `about ${seconds(rates.caught_up_in_seconds)}`;
const latency = (summary) => summary.count === 0 ? "nothing in the last minute"
  : `${seconds(summary.p50)} · ${seconds(summary.p90)} · ${seconds(summary.p99)}`;
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const moment = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";

// ---- the token, where the admin port asks for one ---------------------------------------------------------------------

// Kept as long as this tab, and for this page alone.
const TOKEN = "diffluent-admin-token";
let tokenAsked = null;
let declined = false;

async function send(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const response = await fetch(path, token ? { ...options, headers: { Authorization: `Bearer ${token}` } } : options);
  if (response.status !== 401) return response;
  // What a person has asked for asks again; what the page does by itself takes no for an answer.
  if (declined && options.method !== "POST") return response;
  if (sessionStorage.getItem(TOKEN) === token) sessionStorage.removeItem(TOKEN);
  tokenAsked ??= askToken(token !== null).finally(() => { tokenAsked = null; });
  return await tokenAsked ? send(path, options) : response;
}

function askToken(wrong) {
  const dialog = $("token");
  write($("token-told"), wrong ? "This is not the token." : "");
  $("token-text").value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const given = dialog.returnValue === "use" && $("token-text").value.trim();
      declined = !given;
      if (given) sessionStorage.setItem(TOKEN, given);
      $("token-text").value = "";
      resolve(Boolean(given));
    };
  });
}

async function ask(path, options) {
  const response = await send(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.message ?? `${response.status}`);
  return body;
}

// ---- regions ----------------------------------------------------------------------------------------------------------

const ROWS = [
  ["Behind by", (region) => `${seconds(region.lag_seconds)} · ${count(region.lag_records)} records`],
  ["Caught up in", (region) => wait(region.rates)],
  ["Produced here", (region) => `${count(region.rates.produced_records_per_second)} records/s`],
  ["Mirrored", (region) => `${count(region.rates.mirrored_records_per_second)} records/s · ${bytes(region.rates.mirrored_bytes_per_second)}/s`],
  ["Latency p50 · p90 · p99", (region) => latency(region.replication_latency)],
  ["Streams", (region) => Object.entries(region.streams_by_state).map(([state, streams]) => `${count(streams)} ${words(state)}`).join(", ") || "none"],
  ["Limits", limits],
  ["Missing for good", missing],
  ["Other proxies", (region) => region.other_proxies.map((other) => `${other.instance} (${other.host}): ${count(other.streams)} streams`).join(", ") || "none"],
];

function limits(region) {
  const { rate_limit, catch_up_rate_limit, throttled } = region.limits;
  const parts = [["sent", rate_limit], ["read to catch up", catch_up_rate_limit]];
  const told = parts.filter(([, limit]) => limit !== null).map(([word, limit]) => `${word} ${bytes(limit)}/s`).join(", ") || "none";
  return throttled ? `${told}, set by ${throttled.by} since ${moment(throttled.since_ms)}` : told;
}

/** Pauses or resumes a region, or one topic on its way there, and says what came of it. */
async function hold(command, region, topic) {
  const what = topic === undefined ? region : `${topic} on its way to ${region}`;
  const place = `/regions/${encodeURIComponent(region)}${topic === undefined ? "" : `/topics/${encodeURIComponent(topic)}`}`;
  try {
    await ask(`${place}/${command}`, { method: "POST" });
    write($("command-told"), command === "pause" ? `Paused: ${what}. It keeps its position and sends nothing.` : `Goes on: ${what}.`);
  } catch (error) {
    write($("command-told"), `Not done: ${error.message}`);
  }
  details();
}

function missing(region) {
  const parts = [["lost", region.lost_records], ["stepped over", region.skipped_records], ["diverged", region.diverged_records]];
  return parts.filter(([, records]) => records > 0).map(([word, records]) => `${count(records)} ${word}`).join(", ") || "nothing";
}

const cards = new Map();
let cardsMade = 0;

class Card {
  constructor(name) {
    this.name = name;
    const id = `region-${cardsMade++}`;
    this.state = make("span", { className: "state" });
    this.since = make("p", { className: "quiet" });
    this.why = make("p", { className: "why" });
    this.remedy = make("p", { className: "why" });
    this.values = ROWS.map(() => make("dd"));
    const list = make("dl", {}, ...ROWS.flatMap(([title], at) => [make("dt", { textContent: title }), this.values[at]]));
    this.chart = make("div", { className: "chart", role: "img", "aria-label": "Lag over the last hour" });
    const show = make("button", { type: "button", textContent: "Topics", "aria-label": `Topics of ${name}` });
    show.addEventListener("click", () => { choose(name); $("topics-search").focus(); });
    this.hold = make("button", { type: "button" });
    this.hold.addEventListener("click", () => hold(this.hold.dataset.is, name));
    this.lift = make("button", { type: "button", textContent: "Lift limits", "aria-label": `Put the limits of ${name} back to the configured ones`, hidden: true });
    this.lift.addEventListener("click", () => hold("resume", name));
    this.element = make("article", { "aria-labelledby": id },
      make("div", { className: "top" }, make("h3", { id, textContent: name }), this.state),
      this.since, this.why, this.remedy, list, this.chart, make("p", { className: "buttons" }, show, this.hold, this.lift));
    this.points = [[], [], []];
    this.load();
  }

  async load() {
    try {
      const hour = await ask(`/regions/${encodeURIComponent(this.name)}/history`);
      this.points = [hour.at_ms.map((ms) => ms / 1000), hour.lag_seconds, hour.lag_records];
      this.draw();
    } catch { /* the connection line tells */ }
  }

  show(region, at_ms) {
    this.state.dataset.state = region.state;
    write(this.state, sign(region.state));
    write(this.since, region.state_since_ms ? `since ${moment(region.state_since_ms)}` : "");
    write(this.why, region.reason ? `Why: ${region.reason}` : "");
    // The reason of a stall says what to do, too.
    write(this.remedy, region.remedy && !region.reason?.includes(region.remedy) ? `What to do: ${region.remedy}` : "");
    ROWS.forEach(([, value], at) => write(this.values[at], value(region)));
    const command = region.paused ? "resume" : "pause";
    this.hold.dataset.is = command;
    write(this.hold, region.paused ? "Resume" : "Pause");
    this.hold.setAttribute("aria-label", `${region.paused ? "Resume" : "Pause"} ${this.name}`);
    this.lift.hidden = !region.limits.throttled || Boolean(region.paused);
    this.add(Math.floor(at_ms / 1000 / POINT_SECONDS) * POINT_SECONDS, region.lag_seconds, region.lag_records);
  }

  add(time, behind, records) {
    const [times, ages, counts] = this.points;
    const last = times.length - 1;
    if (times[last] === time) {
      ages[last] = Math.max(ages[last], behind);
      counts[last] = Math.max(counts[last], records);
    } else {
      times.push(time); ages.push(behind); counts.push(records);
      if (times.length > HOUR_POINTS) this.points.forEach((values) => values.shift());
    }
    this.draw();
  }

  draw() {
    const [times, ages] = this.points;
    if (times.length === 0 || !this.element.isConnected) return;
    const most = Math.max(...ages);
    this.chart.setAttribute("aria-label",
      `Lag over the last hour: now ${seconds(ages.at(-1))}, at most ${seconds(most)}`);
    const width = this.chart.clientWidth;
    if (!this.plot) {
      const style = getComputedStyle(document.documentElement);
      const color = (name) => style.getPropertyValue(name).trim();
      const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      this.plot = new uPlot({
        width, height: 150, legend: { show: false }, cursor: { show: false }, padding: [8, 4, 0, 4],
        scales: { x: { time: true, range: (_, __, last) => [last - HOUR_POINTS * POINT_SECONDS, last] }, s: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] }, n: { range: (_, __, max) => [0, Math.max(10, max * 1.1)] } },
        axes: [
          { ...axis, space: 70, size: 26, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })) },
          { ...axis, scale: "s", size: 52, values: (_, ticks) => ticks.map(seconds) },
          { ...axis, scale: "n", side: 1, size: 46, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => Intl.NumberFormat("en", { notation: "compact" }).format(tick)) },
        ],
        series: [{}, { scale: "s", stroke: color("--blue"), width: 2, points: { show: false } },
          { scale: "n", stroke: color("--orange"), width: 1, dash: [4, 3], points: { show: false } }],
      }, this.points, this.chart);
      this.note ??= this.chart.insertAdjacentElement("afterend", make("p", { className: "quiet", textContent: "The last hour: seconds behind (line, left), records behind (dashes, right)" }));
    } else {
      if (this.plot.width !== width) this.plot.setSize({ width, height: 150 });
      this.plot.setData(this.points);
    }
  }

  redraw() {
    this.plot?.destroy();
    this.plot = undefined;
    this.draw();
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cards.forEach((card) => card.redraw()));
addEventListener("resize", () => cards.forEach((card) => card.draw()));

function showRegions(summary) {
  const names = summary.regions.map((region) => region.region);
  for (const name of names) {
    if (cards.has(name)) continue;
    if (cards.size === 0) $("regions").replaceChildren();
    const card = new Card(name);
    cards.set(name, card);
    $("regions").append(card.element);
    $("topics-region").append(make("option", { value: name, textContent: name }));
  }
  for (const [name, card] of cards) {
    // One that only does not answer stays; the others were taken out of the configuration.
    if (names.includes(name) || summary.silent.includes(name)) continue;
    card.plot?.destroy();
    card.element.remove();
    cards.delete(name);
    $("topics-region").querySelector(`option[value="${CSS.escape(name)}"]`)?.remove();
  }
  summary.regions.forEach((region) => cards.get(region.region).show(region, summary.at_ms));
  if (names.length && !names.includes(chosen.region)) choose(names[0]);
}

// ---- topics and partitions ----------------------------------------------------------------------------------------------

const chosen = { region: "", topic: "", sort: "worst", reverse: false, rows: ROWS_STEP, partitionRows: ROWS_STEP };

const state = (row) => make("span", { className: "state", textContent: sign(row.state), data: { state: row.state, is: row.state } });
const behind = [
  { title: "Behind by", kind: "number", sort: "lag_seconds", cell: (row) => seconds(row.lag_seconds) },
  { title: "Records behind", kind: "number", sort: "lag_records", cell: (row) => count(row.lag_records) },
];

const topics = new Table($("topics"), "Topics, the worst first", [
  { title: "Topic", kind: "name", sort: "name", up: true, cell: topicButton },
  { title: "State", sort: "worst", cell: state },
  ...behind,
  { title: "Caught up in", kind: "number", cell: (row) => wait(row.rates) },
  { title: "Records/s", kind: "number", sort: "rate", cell: (row) => count(row.rates.mirrored_records_per_second) },
  { title: "Latency p50 · p90 · p99", kind: "number", cell: (row) => latency(row.replication_latency) },
  { title: "Action", cell: topicHold },
  { title: "Partitions", kind: "number", cell: (row) => count(row.partitions) + (row.stalled_partitions ? ` (${count(row.stalled_partitions)} stalled)` : "") + (row.partitions_elsewhere ? `, ${count(row.partitions_elsewhere)} elsewhere` : "") },
], (row) => row.topic, (sort) => {
  chosen.reverse = chosen.sort === sort && !chosen.reverse;
  chosen.sort = sort;
  details();
});

const partitions = new Table($("partitions"), "Partitions, the worst first", [
  { title: "Partition", kind: "number", cell: (row) => String(row.partition) },
  { title: "State", cell: state },
  { title: "Behind by", kind: "number", cell: (row) => seconds(row.lag_seconds) },
  { title: "Records behind", kind: "number", cell: (row) => count(row.lag_records) },
  { title: "Next offset", kind: "number", cell: (row) => String(row.next_source_offset) },
  { title: "Local end", kind: "number", cell: (row) => String(row.local_end_offset) },
  { title: "Missing for good", kind: "number", cell: missing },
  { title: "Why, and what to do", kind: "wide", cell: (row) => row.reason ?? "" },
  { title: "Action", cell: skipButton },
], (row) => row.partition, () => {});

function topicButton(row) {
  const button = make("button", { type: "button", className: "name", textContent: row.topic, "aria-label": `Partitions of ${row.topic}`, data: { is: row.topic } });
  button.addEventListener("click", () => { open(row.topic); $("partitions-title").focus(); });
  return button;
}

function topicHold(row) {
  const command = row.paused ? "resume" : "pause";
  const word = row.paused ? "Resume" : "Pause";
  const { region } = chosen;
  const button = make("button", { type: "button", textContent: word, "aria-label": `${word} ${row.topic}`, data: { is: `${command} ${region} ${row.topic}` } });
  button.addEventListener("click", () => hold(command, region, row.topic));
  return button;
}

function skipButton(row) {
  if (!row.obstacle) return "";
  const { offset, next_offset, records } = row.obstacle;
  const button = make("button", { type: "button", className: "danger", textContent: "Skip…", "aria-label": `Skip the batch that stalls partition ${row.partition}`, data: { is: `${chosen.topic} ${offset}` } });
  const { region, topic } = chosen;
  button.addEventListener("click", () => {
    write($("skip-what"), `The batch at source offset ${offset} (to ${next_offset}, exclusive; ${count(records)} records) of topic ${topic}, partition ${row.partition}: region ${region} will never get it.`);
    const dialog = $("skip");
    dialog.returnValue = "cancel";
    dialog.onclose = () => { if (dialog.returnValue === "skip") skip(region, topic, row.partition, offset); };
    dialog.showModal();
  });
  return button;
}

async function skip(region, topic, partition, offset) {
  const path = `/regions/${encodeURIComponent(region)}/topics/${encodeURIComponent(topic)}/partitions/${partition}/skip?offset=${offset}`;
  try {
    const done = await ask(path, { method: "POST" });
    write($("skip-told"), `Stepped over ${count(done.skipped_records)} records, source offsets ${done.offset} to ${done.next_offset} (exclusive).`);
  } catch (error) {
    write($("skip-told"), `Not stepped over: ${error.message}`);
  }
  details();
}

function choose(region) {
  if (chosen.region === region) return;
  chosen.region = region;
  chosen.rows = ROWS_STEP;
  $("topics-region").value = region;
  open("");
  details();
}

function open(topic) {
  chosen.topic = topic;
  chosen.partitionRows = ROWS_STEP;
  $("partitions-section").hidden = topic === "";
  write($("skip-told"), "");
  $("partitions-search").value = "";
  if (topic) {
    write($("partitions-title"), `Partitions of ${topic}, to ${chosen.region}`);
    partitions.show([], "Loading…");
    details();
  }
}

function tellMore(table, shown, matched, total, more) {
  const all = shown === matched;
  const text = `${count(shown)} shown of ${count(matched)}${matched === total ? "" : ` found among ${count(total)}`}. `;
  if (table.more.dataset.is === text) return;
  table.more.dataset.is = text;
  table.more.replaceChildren(text);
  if (all) return;
  if (shown >= ROWS_MAX) { table.more.append("Search for the others."); return; }
  const button = make("button", { type: "button", textContent: `Show ${ROWS_STEP} more` });
  button.addEventListener("click", more);
  table.more.append(button);
}

let asking = false;
let askAgain = false;

/** Asks for what is looked at, one request at a time. */
async function details() {
  if (asking) { askAgain = true; return; }
  if (!chosen.region || document.hidden) return;
  asking = true;
  const { region, topic } = chosen;
  const path = `/regions/${encodeURIComponent(region)}/topics`;
  try {
    const query = new URLSearchParams({ search: $("topics-search").value, sort: chosen.sort, reverse: chosen.reverse, limit: chosen.rows });
    const found = await ask(`${path}?${query}`);
    topics.show(found.topics, `Topics on their way to ${region}`);
    topics.sorted(chosen.sort, chosen.reverse);
    tellMore(topics, found.topics.length, found.matched, found.total, () => { chosen.rows = Math.min(chosen.rows + ROWS_STEP, ROWS_MAX); details(); });
    if (topic) {
      const query = new URLSearchParams({ search: $("partitions-search").value, limit: chosen.partitionRows });
      const one = await ask(`${path}/${encodeURIComponent(topic)}?${query}`);
      if (chosen.region === region && chosen.topic === topic) {
        const elsewhere = one.elsewhere.map((other) => `${other.instance} has ${other.partitions.join(", ")}`).join("; ");
        partitions.show(one.rows, `Partitions of ${topic}, the worst first${elsewhere && `. Mirrored by other proxies: ${elsewhere}`}`);
        tellMore(partitions, one.rows.length, one.matched, one.partitions, () => { chosen.partitionRows = Math.min(chosen.partitionRows + ROWS_STEP, ROWS_MAX); details(); });
      }
    }
  } catch (error) {
    if (topic && chosen.topic === topic) write(partitions.caption, `Not known: ${error.message}`);
  }
  asking = false;
  if (askAgain) { askAgain = false; details(); }
}

$("topics-region").addEventListener("change", (event) => choose(event.target.value));
$("topics-search").addEventListener("input", () => { chosen.rows = ROWS_STEP; details(); });
$("partitions-search").addEventListener("input", () => { chosen.partitionRows = ROWS_STEP; details(); });
$("partitions-close").addEventListener("click", () => { open(""); $("topics-search").focus(); });
for (const form of ["topics-form", "partitions-form"]) $(form).addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", details);

// ---- events, brokers, configuration -----------------------------------------------------------------------------------------

const events = new Table($("events"), "What changed, the newest first", [
  { title: "When", cell: (row) => moment(row.at_ms) },
  { title: "What", cell: (row) => words(row.kind) },
  { title: "Where", cell: (row) => [row.region, row.topic, row.partition === null ? null : `partition ${row.partition}`].filter((part) => part !== null).join(", ") },
  { title: "Why", kind: "wide", cell: (row) => row.message },
  { title: "Who", cell: (row) => row.by ?? "" },
], (row) => row.number, () => {});
let shownEvent = -1;
let eventRows = ROWS_STEP;

async function showEvents(last) {
  if (shownEvent === last) return;
  shownEvent = last;
  try {
    const found = (await ask(`/events?limit=${eventRows + 1}`)).events;
    events.show(found.slice(0, eventRows));
    const more = found.length > eventRows;
    events.more.replaceChildren();
    if (more) {
      const button = make("button", { type: "button", textContent: "Show all" });
      button.addEventListener("click", () => { eventRows = ROWS_MAX; shownEvent = -1; });
      events.more.append(button);
    }
  } catch { shownEvent = -1; }
}

const clusters = new Map();

async function showBrokers() {
  let found;
  try { found = (await ask("/brokers")).clusters; } catch { return; }
  for (const cluster of found) {
    if (!clusters.has(cluster.cluster)) {
      const place = make("div");
      $("brokers").append(place);
      clusters.set(cluster.cluster, new Table(place, cluster.cluster, [
        { title: "Broker", kind: "number", cell: (row) => String(row.node_id) },
        { title: "Address", kind: "wide", cell: (row) => `${row.host}:${row.port}` },
        { title: "Partitions led", kind: "number", cell: (row) => count(row.leads) },
      ], (row) => row.node_id, () => {}));
    }
    const table = clusters.get(cluster.cluster);
    const faults = [[cluster.under_replicated_partitions, "under-replicated"], [cluster.leaderless_partitions, "without a leader"]]
      .filter(([partitions]) => partitions > 0).map(([partitions, word]) => `⚠ ${count(partitions)} ${word}`);
    const known = cluster.brokers.length ? `${count(cluster.topics)} topics, ${count(cluster.partitions)} partitions` : "not reached yet";
    table.show(cluster.brokers, `${cluster.cluster}: ${[known, ...faults].join(", ")}`);
    const { records_in_per_second, bytes_in_per_second, bytes_out_per_second } = cluster.rates;
    const flow = `In: ${count(records_in_per_second)} records/s, ${bytes(bytes_in_per_second)}/s. Out: ${bytes(bytes_out_per_second)}/s.`;
    write(table.more, cluster.under_replicated_topics.length ? `${flow} Under-replicated: ${cluster.under_replicated_topics.join(", ")}` : flow);
  }
}

const clients = new Table($("clients"), "Clients, those that produce most first", [
  { title: "Client", kind: "name", cell: (row) => row.client_id ?? "?" },
  { title: "From", cell: (row) => row.address },
  { title: "Software", cell: (row) => [row.software_name, row.software_version].filter((part) => part !== null).join(" ") },
  { title: "Produces", kind: "number", cell: (row) => `${bytes(row.rates.produced_bytes_per_second)}/s` },
  { title: "Receives", kind: "number", cell: (row) => `${bytes(row.rates.sent_bytes_per_second)}/s` },
  { title: "Requests/s", kind: "number", cell: (row) => count(row.rates.requests_per_second) },
  { title: "Connections", kind: "number", cell: (row) => count(row.connections) },
  { title: "Since", cell: (row) => moment(row.since_ms) },
], (row) => JSON.stringify([row.address, row.client_id, row.software_name, row.software_version]), () => {});

async function showClients() {
  try {
    const found = await ask(`/clients?limit=${ROWS_STEP}`);
    clients.show(found.clients, `${count(found.total)} clients, ${count(found.connections)} connections, those that produce most first`);
    write(clients.more, found.clients.length < found.total ? `The first ${count(found.clients.length)} are shown.` : "");
  } catch { /* the connection line tells */ }
}

const history = new Table($("history"), "Configurations that were in effect, the newest first", [
  { title: "When", cell: (row) => moment(row.at_ms) },
  { title: "Proxy", cell: (row) => `${row.proxy} on ${row.host}` },
  { title: "Version", cell: (row) => row.version },
  { title: "Cause", cell: (row) => row.cause },
  { title: "Who", cell: (row) => row.by },
  { title: "What changed", kind: "wide", cell: (row) => row.changes.map(changed).join("; ") },
], (row) => row.id, () => {});

function changed({ key, before, after }) {
  const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  if (before === null && isTable(after)) return `${key} is new`;
  if (after === null && isTable(before)) return `${key} is gone`;
  const shown = (value) => value === null ? "not set" : JSON.stringify(value);
  return JSON.stringify(before) === JSON.stringify(after) ? `${key} is another one` : `${key}: ${shown(after)}, was ${shown(before)}`;
}

$("history-details").addEventListener("toggle", async () => {
  if (!$("history-details").open) return;
  try {
    const told = await ask("/history?limit=50");
    history.show(told.entries);
    write(history.more, told.reason ? `Only what this process remembers: ${told.reason}` : "");
  } catch (error) { write(history.more, error.message); }
});

$("config").addEventListener("toggle", async () => {
  try { write($("config-text"), JSON.stringify(await ask("/config"), null, 2)); } catch (error) { write($("config-text"), error.message); }
});

// ---- live -------------------------------------------------------------------------------------------------------------------

let heard = performance.now();
let live = null;
let source;

function connection(is) {
  if (live === is) return;
  const back = live === false && is;
  live = is;
  document.body.classList.toggle("lost", !is);
  $("connection").dataset.state = is ? "live" : "lost";
  write($("connection"), is
    ? (back ? `● Live again since ${clock(Date.now())}` : "● Live")
    : `✕ Connection lost at ${clock(Date.now())}: what is shown is old. Trying again…`);
  if (back) { cards.forEach((card) => card.load()); shownEvent = -1; details(); showBrokers(); showClients(); }
}

// As EventSource does, which can't show a token.
async function connect() {
  source?.abort();
  const mine = source = new AbortController();
  try {
    const response = await send("/stream", { signal: mine.signal });
    if (!response.ok) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const events = (text + read.value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = event.split("\n").find((line) => line.startsWith("data: "));
        if (data) hear(JSON.parse(data.slice("data: ".length)));
      }
    }
  } catch {
    // It has ended; the next try is under way below.
  } finally {
    if (source === mine) source = null;
  }
}

function hear(summary) {
  heard = performance.now();
  write($("version"), summary.version);
  const mark = { well: "✓", behind: "↻", bad: "✕" }[summary.level];
  write($("headline"), `${mark} ${summary.headline}`);
  // Its numbers change every second: a screen reader is told when it is about something else.
  if ($("headline").dataset.level !== summary.level) write($("announced"), summary.headline);
  $("headline").dataset.level = summary.level;
  document.title = `${mark} diffluent`;
  showRegions(summary);
  showEvents(summary.last_event);
  connection(true);
}

connect();
showBrokers();
showClients();
setInterval(() => { if (performance.now() - heard > LOST_AFTER_MS) connection(false); }, 500);
setInterval(() => { if (!source && !tokenAsked) connect(); }, AGAIN_MS);
setInterval(() => { if (live) details(); }, DETAILS_MS);
setInterval(() => { if (live && !document.hidden) showBrokers(); }, BROKERS_MS);
setInterval(() => { if (live && !document.hidden) showClients(); }, CLIENTS_MS);
