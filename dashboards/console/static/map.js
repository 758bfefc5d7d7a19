// The map: a mark for each sensor, and the zones' outlines where no tiles are to be had.
import { element, quantityValue, quantityWord, ageText, mark, setText, shape, STATES, STATE_WORDS, zoneWord } from "./format.js";

const L = window.L;
const RADIUS = { alert: 8, fault: 7, suspect: 5, silent: 5, good: 4 };
// Marks grow a little with each zoom step from the whole city on, so that they neither cover it
// nor get lost in a street.
const GROWTH = 0.17;
const MIN_SCALE = 0.8;
const MAX_SCALE = 1.6;

// A circle marker that draws the shape of its sensor's state instead.
const SensorMark = L.CircleMarker.extend({
  _updatePath() {
    const { state, scale } = this.options;
    this._renderer._setPath(this, shape(state, this._point.x, this._point.y, RADIUS[state] * scale()));
  },
  setState(state) {
    if (this.options.state === state && this._path?.dataset.state === state) return;
    this.options.state = state;
    if (this._path) {
      this._path.dataset.state = state;
      this._path.setAttribute("aria-label", `${this.options.sensor.name}: ${STATE_WORDS[state]}`);
      this.redraw();
      if (STATES.indexOf(state) < 2) this.bringToFront();
    }
  },
});

export class CityMap {
  #map;
  #city;
  #marks = new Map();
  #zones = L.layerGroup();
  #sensors = L.featureGroup();
  #ring = null;
  #wholeCity = null; // zoom at which the whole city is seen
  #moved = false; // by the viewer; until then the map keeps the whole city in view
  #legend;

  constructor(node, legend, city, onSelect) {
    this.#city = city;
    this.#map = L.map(node, {
      attributionControl: false, zoomControl: true, zoomSnap: 0.25, minZoom: 3, maxZoom: 19,
      renderer: L.svg({ padding: 0.3 }), fadeAnimation: false,
    });
    this.#zones.addTo(this.#map);
    this.#sensors.addTo(this.#map);
    this.#sensors.on("click", (event) => onSelect(event.layer.options.sensor));
    this.#sensors.bindTooltip((layer) => this.#tooltip(layer.options.sensor), {
      direction: "top", offset: [0, -8], opacity: 1,
    });
    for (const gesture of ["pointerdown", "wheel", "keydown"]) {
      node.addEventListener(gesture, () => { this.#moved = true; }, { passive: true });
    }
    new ResizeObserver(() => {
      this.#map.invalidateSize({ animate: false });
      if (!this.#moved) this.#fit();
    }).observe(node);
    this.#legend = new Map(
      STATES.map((state) => {
        const item = element("li");
        const number = element("b", "", "0");
        item.append(mark(state), number, element("span", "", STATE_WORDS[state]));
        legend.append(item);
        return [state, number];
      }),
    );
  }

  // Draws the sensors anew; needed only when the city's layout changed.
  layOut() {
    this.#marks.clear();
    this.#sensors.clearLayers();
    this.#zones.clearLayers();
    const placed = [...this.#city.sensors.values()].filter(isPlaced);
    if (!this.#moved) this.#fit(placed);
    if (this.#city.tileUrl) this.#addTiles();
    else this.#addZones(placed);
    for (const sensor of placed) {
      const layer = new SensorMark([sensor.latitude, sensor.longitude], {
        sensor, state: "good", className: "sensor", radius: 8, scale: () => this.#scale(), bubblingMouseEvents: false,
      });
      this.#marks.set(sensor.id, layer);
      this.#sensors.addLayer(layer);
    }
    this.refresh();
  }

  refresh() {
    const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
    for (const sensor of this.#city.sensors.values()) {
      const state = this.#city.stateOf(sensor);
      counts[state] += 1;
      this.#marks.get(sensor.id)?.setState(state);
    }
    for (const [state, node] of this.#legend) setText(node, String(counts[state]));
  }

  select(sensor, move) {
    this.#ring?.remove();
    this.#ring = null;
    if (!sensor || !isPlaced(sensor)) return;
    const place = [sensor.latitude, sensor.longitude];
    this.#ring = L.circleMarker(place, { radius: 15, className: "selected", interactive: false });
    this.#ring.addTo(this.#map);
    if (move && !this.#map.getBounds().pad(-0.05).contains(place)) this.#map.panTo(place);
  }

  #fit(placed = [...this.#city.sensors.values()].filter(isPlaced)) {
    const bounds = L.latLngBounds(placed.map((s) => [s.latitude, s.longitude]));
    if (!bounds.isValid()) {
      this.#map.setView([0, 0], 3);
      return;
    }
    this.#map.fitBounds(bounds, { paddingTopLeft: [24, 40], paddingBottomRight: [24, 20], animate: false });
    this.#wholeCity = this.#map.getZoom();
  }

  #scale() {
    const steps = this.#map.getZoom() - (this.#wholeCity ?? this.#map.getZoom());
    return Math.min(MAX_SCALE, Math.max(MIN_SCALE, 0.95 + GROWTH * steps));
  }

  #tooltip(sensor) {
    const box = element("div", "tip");
    const state = this.#city.stateOf(sensor);
    const head = element("div", "tip-head");
    head.append(mark(state), element("b", "", sensor.name), element("span", "", zoneWord(sensor.zone)));
    box.append(head);
    for (const { quantity, unit, newest } of sensor.series.slice(0, 6)) {
      const line = element("div", "tip-line");
      line.append(element("span", "", quantityWord(quantity)));
      line.append(element("span", "", newest ? quantityValue(newest.value, unit) : "–"));
      box.append(line);
    }
    const newest = Math.max(0, ...sensor.series.map((s) => s.newest?.time ?? 0));
    box.append(element("div", "tip-foot", newest ? ageText(this.#city.now() - newest) : "no reading yet"));
    return box;
  }

  #addTiles() {
    this.#zones.addLayer(L.tileLayer(this.#city.tileUrl, { maxZoom: 19 }));
  }

  #addZones(placed) {
    const zones = new Map();
    for (const sensor of placed) {
      if (!zones.has(sensor.zone)) zones.set(sensor.zone, []);
      zones.get(sensor.zone).push([sensor.longitude, sensor.latitude]);
    }
    for (const [name, points] of zones) {
      const outline = widened(hull(points));
      if (outline.length > 2) {
        this.#zones.addLayer(
          L.polygon(outline.map(([x, y]) => [y, x]), { className: "zone", interactive: false }),
        );
      }
      const top = outline.reduce((best, point) => (point[1] > best[1] ? point : best));
      const label = element("span", "", zoneWord(name));
      this.#zones.addLayer(
        L.marker([top[1], top[0]], {
          icon: L.divIcon({ className: "zone-name", html: label, iconSize: [0, 0] }),
          interactive: false, keyboard: false,
        }),
      );
    }
  }
}

const isPlaced = (sensor) => sensor.longitude !== null && sensor.latitude !== null;

// Andrew's monotone chain: the corners of the convex hull, counter-clockwise.
function hull(points) {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  if (sorted.length < 3) return sorted;
  const turn = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const half = (list) => {
    const chain = [];
    for (const point of list) {
      while (chain.length > 1 && turn(chain.at(-2), chain.at(-1), point) <= 0) chain.pop();
      chain.push(point);
    }
    chain.pop();
    return chain;
  };
  return [...half(sorted), ...half(sorted.reverse())];
}

// A little larger than the sensors' hull, so that marks do not sit on the line.
function widened(points) {
  const x = points.reduce((sum, point) => sum + point[0], 0) / points.length;
  const y = points.reduce((sum, point) => sum + point[1], 0) / points.length;
  return points.map((point) => [x + (point[0] - x) * 1.08, y + (point[1] - y) * 1.08]);
}
