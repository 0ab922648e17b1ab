/* What happens at the station, as it happens: follow("inspection", action). */
const LOOK_EVERY = 5000;  // ms: a cable that is pulled closes no connection
const PATIENCE = 4000;

const source = new EventSource(`/v1/stream?view=${document.body.dataset.view}`);
const watchers = new Set();
let last = null;  // neither open nor failed yet

function tell(state) {
  if (state === last) return;
  last = state;
  for (const watch of watchers) watch(state);
}

async function look() {
  try {
    await fetch("/health/live", { signal: AbortSignal.timeout(PATIENCE) });
    tell(source.readyState === EventSource.OPEN ? "live" : "lost");
  } catch {
    tell("lost");
  }
}

source.addEventListener("open", () => tell("live"));
source.addEventListener("error", () => tell("lost"));
addEventListener("offline", look);
addEventListener("online", look);
const timer = setInterval(look, LOOK_EVERY);
addEventListener("pagehide", () => {
  clearInterval(timer);
  source.close();
});

export function follow(kind, action) {
  source.addEventListener(kind, (event) => action(JSON.parse(event.data)));
}

/* Called with "lost" and "live" when the link changes. */
export const followState = (action) => watchers.add(action);

/* Load what news will change: once the link is open, so that no news fall between, and again when it is back. */
export function loadAndFollow(load) {
  let loaded = false;
  const watch = (state) => {
    if (state === "lost" && loaded) return;
    loaded = true;
    load();
  };
  watchers.add(watch);
  if (last !== null) watch(last);
}
