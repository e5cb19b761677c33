// How snapshots come: a stream, or questions when no stream is to be had; and again and again when nobody answers.

const SILENCE = 8000; // milliseconds without a word, after which a stream counts as broken; the server speaks each 5 s
const POLL = 2000;
const POLLS_PER_TRY = 15; // polls between attempts at a stream
const TIMEOUT = 6000;
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15000;

/**
 * `on.snapshot(snapshot)`, `on.absent()` when there is no such group, `on.state({mode, retryAt})` with mode "connecting",
 * "live", "polling" or "gone" (retryAt: milliseconds of performance.now()). `select(group)` begins anew; null: the first group.
 */
export class Connection {
  constructor(on) {
    this.on = on;
    this.group = null;
    this.round = 0; // what belongs to an earlier one is over
    this.source = null;
    this.timer = null;
    this.watch = null;
    this.pause = FIRST_PAUSE;
    this.refused = false; // whether a stream was tried again since the last one that spoke
  }

  select(group) {
    this.group = group;
    this.stop();
    this.pause = FIRST_PAUSE;
    this.on.state({ mode: "connecting" });
    this.stream();
  }

  /** At once, when a person asks for it or the network is back. */
  retry() {
    this.stop();
    this.stream();
  }

  stop() {
    this.round += 1;
    this.source?.close();
    this.source = null;
    clearTimeout(this.timer);
    clearTimeout(this.watch);
  }

  stream() {
    const round = this.round;
    const source = new EventSource(`/api/stream${this.query()}`);
    this.source = source;
    const heard = (state) => {
      if (round !== this.round) return false;
      this.pause = FIRST_PAUSE;
      this.refused = false;
      this.watchOver(round);
      this.on.state(state);
      return true;
    };
    source.addEventListener("snapshot", (event) => {
      if (heard({ mode: "live" })) this.on.snapshot(JSON.parse(event.data));
    });
    source.addEventListener("absent", () => {
      if (heard({ mode: "live" })) this.on.absent();
    });
    source.addEventListener("trouble", () => heard({ mode: "live", trouble: true }));
    source.addEventListener("error", () => {
      if (round === this.round) this.broken();
    });
    this.watchOver(round);
  }

  watchOver(round) {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => {
      if (round === this.round) this.broken();
    }, SILENCE);
  }

  /** The stream ended, or was refused: is anybody there? The browser's own reconnecting tells neither what it does nor when. */
  broken() {
    this.stop();
    this.poll(0);
  }

  async poll(number) {
    const round = this.round;
    const answer = await this.ask();
    if (round !== this.round) return;
    if (answer === null) {
      this.on.state({ mode: "gone", retryAt: performance.now() + this.pause });
      this.after(this.pause, () => this.retry());
      this.pause = Math.min(LONGEST_PAUSE, this.pause * 2);
      return;
    }
    if (number === 0 && !this.refused) {
      this.refused = true; // once at most: the stream may have ended by chance
      this.stream();
      return;
    }
    this.on.state({ mode: "polling" });
    if (answer.absent) this.on.absent();
    else this.on.snapshot(answer.snapshot);
    if (number + 1 < POLLS_PER_TRY) this.after(POLL, () => this.poll(number + 1));
    else this.after(POLL, () => this.retry());
  }

  after(pause, then) {
    const round = this.round;
    this.timer = setTimeout(() => {
      if (round === this.round) then();
    }, pause);
  }

  /** Null: nobody answers. */
  async ask() {
    try {
      const response = await fetch(`/api/snapshot${this.query()}`, { signal: AbortSignal.timeout(TIMEOUT) });
      if (response.status === 404) return { absent: true };
      return response.ok ? { snapshot: await response.json() } : null;
    } catch {
      return null;
    }
  }

  query() {
    return this.group === null ? "" : `?group=${encodeURIComponent(this.group)}`;
  }
}

export async function groups() {
  try {
    const response = await fetch("/api/groups", { signal: AbortSignal.timeout(TIMEOUT) });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}
