// The header's numbers, the open alerts and the newest readings.
import {
  age, ageText, count, element, expectedText, mark, number, quantityValue, quantityWord, setText,
  since, time, zoneWord,
} from "./format.js";
import { rowState } from "./city.js";

const NEWEST_ROWS = 30;
// The stream's own delay is a few seconds; beyond this the city is not being watched.
const LATE_MS = 120_000;

const id = (name) => document.getElementById(name);

export function showTotals(city) {
  const { totals } = city;
  setText(id("total-stored"), totals.stored_per_s === null ? "–" : count(totals.stored_per_s));
  setText(id("total-alerts"), count(totals.open_alerts));
  setText(id("total-pages"), count(totals.pages_delivered));
  setText(id("total-pending"), totals.pages_pending ? `+${count(totals.pages_pending)} to go` : "");
  id("box-alerts").classList.toggle("raised", totals.open_alerts > 0);
  document.title = totals.open_alerts ? `(${totals.open_alerts}) Citywatch` : "Citywatch";
  showAge(city);
}

export function showAge(city) {
  const newest = city.newestAt();
  const [value, unit] = newest === null ? ["–", ""] : age(city.now() - newest);
  setText(id("total-age"), value);
  setText(id("total-age-unit"), unit);
  id("box-age").classList.toggle("raised", newest !== null && city.now() - newest > LATE_MS);
}

export class AlertList {
  #list;
  #note;
  #cards = new Map();
  #onSelect;

  constructor(list, note, onSelect) {
    this.#list = list;
    this.#note = note;
    this.#onSelect = onSelect;
  }

  show(city, selected) {
    const wanted = new Set(city.alerts.map((alert) => alert.alert_id));
    for (const [key, card] of this.#cards) {
      if (!wanted.has(key)) {
        card.item.remove();
        this.#cards.delete(key);
      }
    }
    city.alerts.forEach((alert, index) => {
      let card = this.#cards.get(alert.alert_id);
      if (!card) {
        card = this.#card(alert);
        this.#cards.set(alert.alert_id, card);
      }
      this.#fill(card, alert, city.now());
      card.button.setAttribute("aria-current", String(alert.sensor === selected?.sensor && alert.quantity === selected?.quantity));
      // Moved only when out of place, so that the focus stays where it is.
      if (this.#list.children[index] !== card.item) this.#list.insertBefore(card.item, this.#list.children[index] ?? null);
    });
    this.#empty(city);
  }

  #empty(city) {
    const more = (city.totals.open_alerts ?? 0) - city.alerts.length;
    setText(this.#note, more > 0 ? `newest ${city.alerts.length}, ${more} more` : city.alerts.length ? "newest first" : "");
    this.#list.classList.toggle("none", city.alerts.length === 0);
  }

  #card(alert) {
    const item = element("li");
    const button = element("button", "alert");
    button.type = "button";
    const head = element("span", "alert-head");
    const what = element("b");
    const where = element("span", "where");
    const tags = element("span", "tags");
    head.append(mark(alert.category === "city" ? "alert" : "fault", 14), what, tags);
    const sentence = element("span", "sentence");
    const facts = element("span", "facts");
    const fact = (word) => {
      const box = element("span", "fact");
      const value = element("span", "fact-value");
      box.append(element("span", "fact-word", word), value);
      facts.append(box);
      return value;
    };
    const card = { item, button, what, where, tags, sentence, since: fact("since"), seen: fact("seen"), expected: fact("expected"), score: fact("score") };
    button.append(head, where, sentence, facts);
    button.addEventListener("click", () => this.#onSelect(alert.sensor, alert.quantity));
    item.append(button);
    return card;
  }

  #fill(card, alert, now) {
    card.button.dataset.category = alert.category;
    card.button.dataset.severity = alert.severity;
    setText(card.what, `${quantityWord(alert.quantity)}, ${alert.kind.replaceAll("-", " ")}`);
    setText(card.where, `${alert.sensor} · ${zoneWord(alert.zone)}`);
    const tags = [alert.severity, ...(alert.category === "city" ? [] : ["sensor"]), ...(alert.state === "open" ? [] : [alert.state])];
    if (card.tags.textContent !== tags.join("")) {
      card.tags.replaceChildren(...tags.map((tag) => {
        const node = element("span", "tag", tag);
        node.dataset.tag = tag;
        return node;
      }));
    }
    setText(card.sentence, alert.sentence);
    setText(card.since, `${since(alert.opened_at, now)}, ${ageText(now - alert.opened_at)}`);
    setText(card.seen, quantityValue(alert.seen, alert.unit));
    setText(card.expected, expectedText(alert.expected, alert.band));
    setText(card.score, alert.score === null ? "–" : number(alert.score));
  }
}

export class NewestTable {
  #body;
  #box;
  #note;
  #rows = [];
  #held = false;
  #onSelect;

  constructor(body, box, note, onSelect) {
    this.#body = body;
    this.#box = box;
    this.#note = note;
    this.#onSelect = onSelect;
    // A table that moves under the pointer cannot be read or hit.
    const hold = (held) => () => { this.#held = held; setText(this.#note, held ? "held" : ""); };
    box.addEventListener("pointerenter", hold(true));
    box.addEventListener("pointerleave", hold(false));
    box.addEventListener("focusin", hold(true));
    box.addEventListener("focusout", hold(false));
  }

  show(city) {
    if (this.#held && this.#rows.length) return;
    const newest = city.newestReadings(NEWEST_ROWS);
    while (this.#rows.length < newest.length) this.#rows.push(this.#row());
    while (this.#rows.length > newest.length) this.#rows.pop().line.remove();
    newest.forEach((series, index) => this.#fill(this.#rows[index], series));
  }

  #row() {
    const line = element("tr");
    const row = { line, time: element("td", "time"), button: element("button", "link-button"), quantity: element("td", "quantity"), value: element("td", "number value"), expected: element("td", "number expected"), series: null };
    row.button.type = "button";
    const cell = element("td", "sensor-cell");
    cell.append(row.button);
    line.append(row.time, cell, row.quantity, row.value, row.expected);
    line.addEventListener("click", () => this.#onSelect(row.series.sensor.name, row.series.quantity));
    this.#body.append(line);
    return row;
  }

  #fill(row, series) {
    const { newest, sensor, quantity, unit } = series;
    row.series = series;
    row.line.dataset.series = series.id;
    setText(row.time, time(newest.time));
    setText(row.button, sensor.name);
    row.button.title = sensor.name;
    setText(row.quantity, quantityWord(quantity));
    const state = rowState(newest);
    const text = quantityValue(newest.value, unit);
    if (row.value.dataset.state !== state || row.value.textContent !== text) {
      row.value.dataset.state = state;
      row.value.replaceChildren(...(state === "good" ? [] : [mark(state, 10)]), text);
      row.value.title = state === "good" ? "" : state === "alert" ? "outside the expected band" : "doubtful quality";
    }
    setText(row.expected, number(newest.expected));
    row.expected.title = expectedText(newest.expected, newest.band);
  }
}
