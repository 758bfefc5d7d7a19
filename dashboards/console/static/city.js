// What the page knows of the city, kept up to date from frames. Nothing here touches the page.

// Two of the longest usual reporting periods (300 s): one report may be lost without alarm.
const SILENT_AFTER_MS = 600_000;
const SUSPECT = 3; // QARTOD flags from here on are not to be trusted

export class City {
  at = 0; // the server's time of the newest frame
  received = 0; // this page's clock at that moment
  sensors = new Map(); // by id
  byName = new Map();
  series = new Map(); // by id
  alerts = [];
  totals = {};
  namespace = "";
  tileUrl = null;

  // A whole frame replaces everything.
  applySnapshot(frame) {
    this.namespace = frame.namespace;
    this.tileUrl = frame.tile_url;
    this.sensors = new Map();
    this.byName = new Map();
    this.series = new Map();
    this.columns = frame.columns.newest;
    for (const values of frame.layout) {
      const row = record(frame.columns.layout, values);
      let sensor = this.sensors.get(row.sensor_id);
      if (!sensor) {
        sensor = {
          id: row.sensor_id, name: row.sensor, domain: row.domain, zone: row.zone,
          longitude: row.longitude, latitude: row.latitude, series: [], alerts: [],
        };
        this.sensors.set(sensor.id, sensor);
        this.byName.set(sensor.name, sensor);
      }
      const series = { id: row.series_id, quantity: row.quantity, unit: row.unit, sensor, newest: null };
      sensor.series.push(series);
      this.series.set(series.id, series);
    }
    this.#apply(frame);
  }

  // Returns the series that changed.
  applyDelta(frame) {
    return this.#apply(frame);
  }

  #apply(frame) {
    this.at = Date.parse(frame.at);
    this.received = performance.now();
    const changed = [];
    for (const values of frame.newest) {
      const row = record(this.columns, values);
      const series = this.series.get(row.series_id);
      if (!series) continue;
      row.time = Date.parse(row.time);
      series.newest = row;
      changed.push(series);
    }
    this.totals = frame.totals;
    if (frame.alerts) this.#applyAlerts(frame.alerts);
    return changed;
  }

  #applyAlerts(alerts) {
    for (const sensor of this.sensors.values()) sensor.alerts.length = 0;
    this.alerts = alerts;
    for (const alert of alerts) {
      alert.opened_at = Date.parse(alert.opened_at);
      this.byName.get(alert.sensor)?.alerts.push(alert);
    }
  }

  // The server's clock now, as far as this page can tell.
  now() {
    return this.at + (performance.now() - this.received);
  }

  newestAt() {
    return this.totals.newest_at ? Date.parse(this.totals.newest_at) : null;
  }

  stateOf(sensor) {
    if (sensor.alerts.some((alert) => alert.category === "city")) return "alert";
    if (sensor.alerts.length) return "fault";
    let newest = 0;
    let worst = 0;
    for (const { newest: row } of sensor.series) {
      if (!row) continue;
      newest = Math.max(newest, row.time);
      worst = Math.max(worst, row.quality);
    }
    if (this.at - newest > SILENT_AFTER_MS) return "silent";
    return worst >= SUSPECT ? "suspect" : "good";
  }

  // The newest readings over all series, newest first.
  newestReadings(limit) {
    const rows = [];
    for (const series of this.series.values()) if (series.newest) rows.push(series);
    rows.sort((a, b) => b.newest.time - a.newest.time || a.id - b.id);
    return rows.slice(0, limit);
  }
}

// Outside the band where an alert would open, or flagged: worth a mark in a list.
export function rowState(row) {
  if (row.quality >= SUSPECT) return "suspect";
  if (row.expected !== null && row.band !== null && Math.abs(row.value - row.expected) > row.band) {
    return "alert";
  }
  return "good";
}

function record(columns, values) {
  const row = {};
  columns.forEach((column, index) => { row[column] = values[index]; });
  return row;
}
