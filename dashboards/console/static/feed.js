// The line to the server: frames come in by themselves, and silence is noticed.

// The server sends every second; this long without a word means the line is dead.
const QUIET_MS = 6000;
const RETRY_MS = 3000;

export function openFeed({ onSnapshot, onDelta, onStale, onLost }) {
  let source = null;
  let quiet = null;

  const lost = () => {
    onLost();
    source.close();
    clearTimeout(quiet);
    // Our own retry, because EventSource gives up for good where the server says 503.
    setTimeout(open, RETRY_MS);
  };
  const heard = () => {
    clearTimeout(quiet);
    quiet = setTimeout(lost, QUIET_MS);
  };

  function open() {
    source = new EventSource("/api/events");
    source.addEventListener("snapshot", (event) => { heard(); onSnapshot(JSON.parse(event.data)); });
    source.addEventListener("delta", (event) => { heard(); onDelta(JSON.parse(event.data)); });
    source.addEventListener("stale", (event) => {
      // The server is there and waits for the database; no frame is due.
      clearTimeout(quiet);
      onStale(Date.parse(JSON.parse(event.data).since));
    });
    source.addEventListener("error", lost);
  }
  open();
}
