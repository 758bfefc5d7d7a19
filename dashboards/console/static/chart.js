// One series over time, with the band in which nothing is wrong.
import { element, expectedText, mark, qualityWord, quantityValue, time as clock } from "./format.js";

const uPlot = window.uPlot;
const SUSPECT = 3;
// Beyond this the oldest points go: a page left open for days must not grow.
const MAX_POINTS = 3000;
const REFETCH_MS = 30_000;

export class SeriesChart {
  #node;
  #readout;
  #plot = null;
  #data = null;
  #request = 0;
  #shown = null; // {sensor, quantity, minutes, seriesId, unit}
  #onNote;

  constructor(node, readout, onNote) {
    this.#node = node;
    this.#readout = readout;
    this.#onNote = onNote;
    new ResizeObserver(() => this.#resize()).observe(node);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    setInterval(() => this.refetch(), REFETCH_MS);
  }

  show(sensor, quantity, minutes) {
    const same = this.#shown && this.#shown.sensor === sensor && this.#shown.quantity === quantity && this.#shown.minutes === minutes;
    if (same) return;
    this.#shown = { sensor, quantity, minutes };
    this.#data = null;
    this.refetch();
  }

  async refetch() {
    const wanted = this.#shown;
    if (!wanted) return;
    const request = ++this.#request;
    const query = new URLSearchParams({ sensor: wanted.sensor, quantity: wanted.quantity, minutes: wanted.minutes });
    let body;
    try {
      const response = await fetch(`/api/series?${query}`);
      body = await response.json();
      if (!response.ok) throw new Error(body.error);
    } catch (error) {
      // What is drawn stays; a chart that never came says why.
      if (request === this.#request && !this.#data) this.#message(`No chart: ${error.message}`);
      return;
    }
    if (request !== this.#request) return; // another choice came in between
    wanted.seriesId = body.series_id;
    wanted.unit = body.unit;
    this.#data = columns(body);
    if (this.#data[0].length) this.#draw();
    else this.#message("No readings in this time.");
  }

  // A new reading of the series shown is put at the end; the next fetch puts it in its bucket.
  follow(changed) {
    const shown = this.#shown;
    if (!this.#plot || !this.#data) return;
    const series = changed.find((one) => one.id === shown?.seriesId);
    if (!series || series.newest.time / 1000 <= (this.#data[0].at(-1) ?? 0)) return;
    const { time, value, expected, band, quality } = series.newest;
    const banded = expected !== null && band !== null;
    const point = [time / 1000, value, expected, banded ? expected + band : null, banded ? expected - band : null];
    point.push(...marked(value, point[4], point[3], quality), value, value, quality);
    this.#data = this.#data.map((column, index) => [...column, point[index]].slice(-MAX_POINTS));
    this.#plot.setData(this.#data, false);
    this.#rescale();
  }

  #message(text) {
    this.#plot?.destroy();
    this.#plot = null;
    this.#node.replaceChildren(element("p", "empty", text));
    this.#readout.replaceChildren();
    this.#onNote("");
  }

  // The values under the pointer, or the newest where there is none: the legend as well.
  #tell(index) {
    const data = this.#data;
    const at = index ?? data[0].length - 1;
    const [time, value, expected, upper] = [0, 1, 2, 3].map((column) => data[column][at]);
    const item = (className, word, text) => {
      const box = element("span", "read");
      box.append(className instanceof Element ? className : element("i", className), element("span", "fact-word", word), element("b", "", text));
      return box;
    };
    const band = expected === null || upper === null ? null : upper - expected;
    const items = [
      element("span", "read-time", clock(time * 1000)),
      item("key-seen", "seen", quantityValue(value, this.#shown.unit)),
      item("key-expected", "expected", expectedText(expected, band)),
    ];
    if (data[5][at] !== null) items.push(item(mark("alert", 11), "outside the band", ""));
    if (data[6][at] !== null) items.push(item(mark("suspect", 11), "quality", qualityWord(data[9][at])));
    this.#readout.replaceChildren(...items);
  }

  #resize() {
    if (!this.#plot) return;
    this.#plot.setSize(this.#size());
  }

  #size() {
    return { width: Math.max(200, this.#node.clientWidth), height: Math.max(90, this.#node.clientHeight) };
  }

  #draw() {
    if (!this.#data?.[0].length) return;
    this.#plot?.destroy();
    this.#node.replaceChildren();
    this.#plot = new uPlot(this.#options(), this.#data, this.#node);
    this.#rescale();
  }

  #rescale() {
    this.#tell(this.#plot.cursor.idx);
    const end = Math.max(Date.now() / 1000, this.#data[0].at(-1));
    this.#plot.setScale("x", { min: end - this.#shown.minutes * 60, max: end });
    const banded = this.#data[3].some((value) => value !== null);
    this.#onNote(banded ? "" : "not scored yet: no expected band");
  }

  #options() {
    const style = getComputedStyle(document.documentElement);
    const ink = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: ink("--muted"), font: `12px ${style.getPropertyValue("--font")}`,
      grid: { stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line"), width: 1, size: 4 },
    };
    const dots = (name) => ({
      paths: () => null, stroke: ink(name), fill: ink(name),
      points: { show: true, size: 8, fill: ink(name), stroke: ink("--panel"), width: 1.5 },
    });
    return {
      ...this.#size(),
      padding: [10, 14, 0, 0],
      legend: { show: false },
      cursor: { points: { size: 7 }, drag: { x: false, y: false } },
      hooks: { setCursor: [(plot) => this.#data && this.#tell(plot.cursor.idx)] },
      scales: { x: { time: true, auto: false } },
      axes: [
        { ...axis, size: 32, space: 70, values: (_, splits, __, ___, step) => splits.map((s) => tick(s, step)) },
        { ...axis, size: 52, space: 34, values: (_, splits, __, ___, step) => splits.map((v) => v.toFixed(decimals(step))) },
      ],
      // The band below the line, the line below the marks.
      bands: [
        { series: [3, 4], fill: ink("--band") },
        { series: [8, 7], fill: ink("--spread") },
      ],
      // In the order of the columns; the last one, quality, is read and not drawn.
      series: [
        {},
        { stroke: ink("--seen"), width: 1.75, points: { show: false } },
        { stroke: ink("--expected"), width: 1.25, dash: [6, 5], points: { show: false } },
        { stroke: ink("--band-edge"), width: 1, points: { show: false } },
        { stroke: ink("--band-edge"), width: 1, points: { show: false } },
        dots("--alert"),
        dots("--suspect"),
        { stroke: "transparent", points: { show: false } },
        { stroke: "transparent", points: { show: false } },
        { show: false, scale: "quality" },
      ],
    };
  }
}

// uPlot's columns: time, seen, expected, upper, lower, outside, doubtful, lowest, highest, quality.
function columns(body) {
  const at = (name) => body.columns.indexOf(name);
  const [time, value, lowest, highest, expected, lower, upper, quality] =
    ["time", "value", "lowest", "highest", "expected", "lower", "upper", "quality"].map(at);
  const data = Array.from({ length: 10 }, () => []);
  for (const row of body.points) {
    const point = [Date.parse(row[time]) / 1000, row[value], row[expected], row[upper], row[lower]];
    // In a bucket the extreme is what stands outside, not the mean.
    const extreme = row[upper] !== null && row[highest] > row[upper] ? row[highest] : row[lower] !== null && row[lowest] < row[lower] ? row[lowest] : row[value];
    point.push(...marked(extreme, row[lower], row[upper], row[quality]), row[lowest], row[highest], row[quality]);
    point.forEach((one, index) => data[index].push(one));
  }
  return data;
}

// The value again where it is outside the band, and where its quality is doubtful.
function marked(value, lower, upper, quality) {
  if (quality >= SUSPECT) return [null, value];
  return [lower !== null && (value < lower || value > upper) ? value : null, null];
}

const decimals = (step) => Math.max(0, -Math.floor(Math.log10(step)));

const pad = (value) => String(value).padStart(2, "0");

function tick(s, step) {
  const t = new Date(s * 1000);
  if (step >= 86_400) return `${t.getDate()} ${t.toLocaleString("en", { month: "short" })}`;
  const clock = `${pad(t.getHours())}:${pad(t.getMinutes())}`;
  return step < 60 ? `${clock}:${pad(t.getSeconds())}` : clock;
}
