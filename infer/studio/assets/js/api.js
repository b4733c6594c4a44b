// What the page asks the studio, and what the studio tells it.

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the studio does not answer. Is it still running?");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error || `the studio says ${answer.status}.`);
  return said;
}

const post = (path, body = {}) => ask(path, {
  method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
});

export const describe = () => ask("/api/studio");
export const sessions = () => ask("/api/sessions");
export const session = (id) => ask(`/api/sessions/${id}`);
export const upload = (blob, name) => ask(`/api/sessions?name=${encodeURIComponent(name)}`, { method: "POST", body: blob });
export const changeSheet = (id, edit) => post(`/api/sessions/${id}/lead_sheet`, edit);
export const cut = (id, start, end) => post(`/api/sessions/${id}/cut`, { start, end });
export const order = (id, wanted) => post(`/api/sessions/${id}/takes`, wanted);
export const cancel = (job) => post(`/api/jobs/${job}/cancel`);
export const rate = (id, take, stars) => post(`/api/sessions/${id}/takes/${take}/stars`, { stars });
export const voiceAddress = (id) => `/api/sessions/${id}/voice`;
export const takeAddress = (id, take, kind) => `/api/sessions/${id}/takes/${take}/${kind}`;
export const zipAddress = (id) => `/api/sessions/${id}/zip`;

export async function sound(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.arrayBuffer();
}

// `told` has a function for each event; a connection that breaks is made anew, and begins with all jobs.
export function listen(told) {
  const events = new EventSource("/api/events");
  for (const [name, act] of Object.entries(told)) {
    events.addEventListener(name, (event) => act(JSON.parse(event.data)));
  }
  addEventListener("pagehide", () => events.close());
}
