// How values, units, times and states read. Nothing here touches the page.

// Names of the Smart Data Models, in an operator's words.
const QUANTITIES = {
  intensity: "Vehicles", occupancy: "Occupancy", averageVehicleSpeed: "Speed",
  averageHeadwayTime: "Headway", averageTravelTime: "Travel time", pm25: "PM2.5", pm10: "PM10",
  no2: "NO₂", o3: "O₃", so2: "SO₂", co: "CO", temperature: "Temperature",
  relativeHumidity: "Humidity", LAeq: "Noise", peopleCount: "People",
  peopleCountTowards: "People towards", peopleCountAway: "People away",
  averageCrowdSpeed: "Crowd speed",
};
// UCUM codes as they are printed.
const UNITS = { "1": "", "ug/m3": "µg/m³", "mg/m3": "mg/m³", Cel: "°C", dB: "dB" };
const QUALITIES = { 1: "good", 2: "not checked", 3: "suspect", 4: "failed", 9: "missing" };

// Worst first. Shape and word carry the state as well as the colour does.
export const STATES = ["alert", "fault", "suspect", "silent", "good"];
export const STATE_WORDS = {
  alert: "City alert", fault: "Sensor alert", suspect: "Doubtful", silent: "Silent", good: "Good",
};

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const quantityWord = (quantity) => QUANTITIES[quantity] ?? quantity;
export const zoneWord = (zone) => zone.replaceAll("-", " ").replace(/(^|\s)\p{L}/gu, (letter) => letter.toUpperCase());
export const unitSign = (unit) => UNITS[unit] ?? unit;
export const qualityWord = (quality) => QUALITIES[quality] ?? `flag ${quality}`;

// Three digits that mean something, at any size.
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  return (size >= 100 ? whole : size >= 10 ? one : two).format(value);
}

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export function quantityValue(value, unit) {
  const sign = unitSign(unit);
  return sign && value !== null ? `${number(value)} ${sign}` : number(value);
}

export function expectedText(expected, band) {
  if (expected === null || expected === undefined) return "–";
  return band === null || band === undefined ? number(expected) : `${number(expected)} ± ${number(band)}`;
}

const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });

export const time = (ms) => clock.format(ms);

// The date only where it is another day than now.
export function since(ms, now) {
  const other = new Date(ms).toDateString() !== new Date(now).toDateString();
  return other ? `${day.format(ms)}, ${time(ms)}` : time(ms);
}

// An age as a number and its unit, apart, so that the number can stand large.
export function age(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return [one.format(s), "s"];
  if (s < 120) return [whole.format(s), "s"];
  if (s < 7200) return [whole.format(s / 60), "min"];
  if (s < 172800) return [whole.format(s / 3600), "h"];
  return [whole.format(s / 86400), "days"];
}

export const ageText = (ms) => {
  const s = Math.max(0, ms) / 1000;
  return s < 60 ? "just now" : `${age(ms).join(" ")} ago`;
};

// The SVG path of a state's shape, drawn around (x, y).
export function shape(state, x, y, r) {
  switch (state) {
    case "alert":
      return `M${x} ${y - 1.25 * r}L${x + 1.15 * r} ${y + 0.85 * r}L${x - 1.15 * r} ${y + 0.85 * r}Z`;
    case "fault":
      return `M${x} ${y - 1.2 * r}L${x + 1.2 * r} ${y}L${x} ${y + 1.2 * r}L${x - 1.2 * r} ${y}Z`;
    case "suspect":
      return `M${x - 0.9 * r} ${y - 0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`;
    case "silent": {
      const d = 0.75 * r;
      return `M${x - d} ${y - d}L${x + d} ${y + d}M${x - d} ${y + d}L${x + d} ${y - d}`;
    }
    default:
      return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  }
}

// A state's shape as a small picture beside its word.
export function mark(state, size = 12) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("width", size);
  svg.setAttribute("height", size);
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("mark");
  svg.dataset.state = state;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", shape(state, 6, 6, state === "good" ? 3.4 : 4.2));
  svg.append(path);
  return svg;
}

// An element with text; data goes in as text and never as HTML.
export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Writes only what differs, so that a screen reader and the layout stay quiet.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
