// The page: frames come in, a choice goes to the address bar, the parts are told.
import { City } from "./city.js";
import { SeriesChart } from "./chart.js";
import { openFeed } from "./feed.js";
import { element, quantityWord, setText, since, zoneWord } from "./format.js";
import { AlertList, NewestTable, showAge, showTotals } from "./lists.js";
import { CityMap } from "./map.js";

const id = (name) => document.getElementById(name);
const city = new City();
const map = new CityMap(id("map"), id("legend"), city, (sensor) => choose(sensor.name));
const chart = new SeriesChart(id("chart"), id("readout"), (note) => setText(id("chart-note"), note));
const alerts = new AlertList(id("alerts"), id("alerts-note"), choose);
const newest = new NewestTable(id("newest"), id("newest-box"), id("newest-note"), choose);

let selected = null; // {sensor, quantity}
let drawing = false;

// The choice lives in the address, so that it can be kept, shared and stepped back through.
function choose(sensor, quantity) {
  const known = city.byName.get(sensor);
  if (!known) return;
  const measured = known.series.map((series) => series.quantity);
  const wanted = quantity ?? known.alerts[0]?.quantity ?? (measured.includes(selected?.quantity) ? selected.quantity : measured[0]);
  const hash = `#${encodeURIComponent(sensor)}/${encodeURIComponent(wanted)}`;
  if (location.hash !== hash) location.hash = hash;
}

function readAddress() {
  const [sensor, quantity] = location.hash.slice(1).split("/").map((part) => {
    try { return decodeURIComponent(part); } catch { return ""; }
  });
  const known = city.byName.get(sensor);
  if (!known) return;
  const measured = known.series.map((series) => series.quantity);
  select(known, measured.includes(quantity) ? quantity : measured[0]);
}

function select(sensor, quantity) {
  selected = { sensor: sensor.name, quantity };
  id("chart-title").replaceChildren(element("span", "", sensor.name), element("span", "zone-of", zoneWord(sensor.zone)));
  id("quantities").replaceChildren(...sensor.series.map((series) => {
    const button = element("button", "quantity-button", quantityWord(series.quantity));
    button.type = "button";
    button.setAttribute("aria-pressed", String(series.quantity === quantity));
    button.addEventListener("click", () => choose(sensor.name, series.quantity));
    return button;
  }));
  map.select(sensor, true);
  chart.show(sensor.name, quantity, Number(id("minutes").value));
  alerts.show(city, selected);
}

function link(state, text) {
  const node = id("link");
  node.dataset.link = state;
  setText(node, text);
  document.body.classList.toggle("stale", state === "stale");
}

const staleText = (ms) => `Stale since ${since(ms, Date.now())}`;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    showTotals(city);
    alerts.show(city, selected);
    newest.show(city);
    map.refresh();
  });
}

openFeed({
  onSnapshot(frame) {
    const again = city.at > 0;
    city.applySnapshot(frame);
    setText(id("namespace"), city.namespace === "live" ? "" : city.namespace);
    link("live", "Live");
    map.layOut();
    id("sensors").replaceChildren(...[...city.byName.keys()].sort().map((name) => {
      const option = element("option");
      option.value = name;
      return option;
    }));
    draw();
    if (again) chart.refetch();
    if (location.hash) readAddress();
    else if (city.alerts.length) choose(city.alerts[0].sensor, city.alerts[0].quantity);
  },
  onDelta(frame) {
    link("live", "Live");
    chart.follow(city.applyDelta(frame));
    draw();
  },
  onStale(at) { link("stale", staleText(at)); },
  onLost() {
    if (city.at) link("stale", staleText(city.at));
    else link("stale", "No connection");
  },
});

// The age goes on growing while no frame comes: that is what it is for.
setInterval(() => showAge(city), 1000);
addEventListener("hashchange", readAddress);
id("minutes").addEventListener("change", () => {
  if (selected) chart.show(selected.sensor, selected.quantity, Number(id("minutes").value));
});
id("find").addEventListener("change", (event) => {
  const name = event.target.value.trim();
  if (!city.byName.has(name)) return;
  choose(name);
  event.target.value = "";
});
