// Colours that carry a number. One ramp for both measures: the worse a link is, the more it stands out from the page.

const LIGHT = ["#d5e6f5", "#9cc7e6", "#5ba3cf", "#2b78b5", "#124f8c", "#0a2a57"];
const DARK = ["#14304c", "#1c4d78", "#2a74ab", "#4c9fd6", "#8cc8ef", "#e2f2fd"];
const PLACES = ["--site-1", "--site-2", "--site-3", "--site-4", "--site-5", "--site-6"];

const darkScheme = matchMedia("(prefers-color-scheme: dark)");

export const isDark = () => darkScheme.matches;
export const onSchemeChange = (then) => darkScheme.addEventListener("change", then);

/** The colour of `share`, 0 (best) to 1 (worst). */
export function ramp(share) {
  const stops = isDark() ? DARK : LIGHT;
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const index = Math.min(stops.length - 2, Math.floor(place));
  return mixed(stops[index], stops[index + 1], place - index);
}

export const rampStops = () => (isDark() ? DARK : LIGHT);

function mixed(one, two, share) {
  const parts = [1, 3, 5].map((at) => {
    const from = parseInt(one.slice(at, at + 2), 16);
    const to = parseInt(two.slice(at, at + 2), 16);
    return Math.round(from + (to - from) * share);
  });
  return `rgb(${parts.join(",")})`;
}

/** The custom property that holds the colour of site number `index`. */
export const siteColour = (index) => `var(${PLACES[index % PLACES.length]})`;

/** A value of the style sheet, for canvases. */
export const styled = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A logarithmic scale over what is there: `share(value)` is 0 at the best and 1 at the worst, whichever end that is.
 * Values that hardly differ are all "best": noise shall not look like a difference.
 */
export function scale(values, worst) {
  const good = values.filter((value) => typeof value === "number" && value > 0);
  if (good.length === 0) return null;
  let low = Infinity;
  let high = 0;
  for (const value of good) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const width = Math.max(Math.log(high / low), Math.log(4));
  const share = (value) => {
    const distance = worst === "high" ? Math.log(value / low) : Math.log(high / value);
    return Math.min(1, Math.max(0, distance / width));
  };
  const at = (place) => (worst === "high" ? low * Math.exp(width * place) : high * Math.exp(-width * place));
  return { low, high, share, at };
}
