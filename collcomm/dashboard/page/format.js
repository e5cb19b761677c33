// Figures as a person reads them. What is not known is a dash.

export const UNKNOWN = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

function scaled(value, units, base) {
  let index = 0;
  let rest = Math.abs(value);
  while (rest >= base * 0.9995 && index < units.length - 1) {
    rest /= base;
    index += 1;
  }
  const digits = rest >= 99.95 || index === 0 ? 0 : rest >= 9.995 ? 1 : 2;
  return `${value < 0 ? "-" : ""}${rest.toFixed(digits)} ${units[index]}`;
}

/** Bytes per second. */
export const rate = (value) => (known(value) ? scaled(value, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"], 1000) : UNKNOWN);

/** Sizes of operations are powers of two. */
export const bytes = (value) => (known(value) ? scaled(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024) : UNKNOWN);

/** A span of seconds, as short as it is clear: 45 µs, 0.82 ms, 1.4 s, 3 min, 2 h 5 min. */
export function span(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.0009995) return `${digits(value * 1e6)} µs`;
  if (size < 0.9995) return `${digits(value * 1e3)} ms`;
  if (size < 59.95) return `${digits(value)} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.5 ? 0 : size >= 9.95 ? 1 : 2).replace(/\.0+$/, "");
}

export const ago = (value) => (known(value) ? (value < 1.5 ? "now" : `${span(value)} ago`) : UNKNOWN);

export const perSecond = (value) =>
  known(value) ? (value >= 99.95 ? count(Math.round(value)) : value.toFixed(value >= 9.995 ? 1 : 2)) : UNKNOWN;

export const count = (value) => (known(value) ? value.toLocaleString("en-US") : UNKNOWN);

export const percent = (value) => (known(value) ? `${Math.round(value * 100)}%` : UNKNOWN);

export const times = (value) => (known(value) && value > 0 ? `${value >= 9.95 ? value.toFixed(0) : value.toFixed(1)}×` : "");

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const shortClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** Wall-clock time, seconds since 1970, in the reader's time zone. */
export const time = (value) => (known(value) ? clock.format(new Date(value * 1000)) : UNKNOWN);
export const shortTime = (value) => (known(value) ? shortClock.format(new Date(value * 1000)) : UNKNOWN);

const DISORDER = /[\u0000-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g; // what would turn the text around it

/** Text comes from peers: it is cut where it would push everything else away. */
export function short(text, length = 16) {
  const letters = Array.from(String(text ?? "").slice(0, 4 * length).replace(DISORDER, ""));
  return letters.length <= length ? letters.join("") : `${letters.slice(0, length - 1).join("")}…`;
}
