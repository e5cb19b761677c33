// The last ten minutes, from left to right: one scale for the charts and the timeline, so that what happened stands over
// what came of it.

export const WINDOW = 600; // seconds
export const LEFT = 78;
export const RIGHT = 14;
const TICK = 120; // seconds

export class TimeScale {
  constructor(now, width) {
    this.now = now;
    this.from = now - WINDOW;
    this.width = Math.max(1, width - LEFT - RIGHT);
  }

  x(at) {
    return LEFT + ((Math.min(this.now, Math.max(this.from, at)) - this.from) / WINDOW) * this.width;
  }

  at(x) {
    return this.from + ((x - LEFT) / this.width) * WINDOW;
  }

  /** At full minutes of the clock. */
  ticks() {
    const found = [];
    for (let at = Math.ceil(this.from / TICK) * TICK; at <= this.now; at += TICK) found.push(at);
    return found;
  }
}

/** The next figure of 1, 2 or 5 with zeros. */
export function niceAbove(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.9999);
}
