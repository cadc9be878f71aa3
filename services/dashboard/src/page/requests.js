// Asking the server.

export class Unauthorized extends Error {}

/** Asks for JSON; answers null if `etag` still holds, else the body and its tag. */
export async function ask(path, parameters, etag, signal) {
  const query = new URLSearchParams(parameters);
  const headers = etag ? { "If-None-Match": etag } : {};
  const response = await fetch(`${path}?${query}`, { headers, signal, cache: "no-store" });
  if (response.status === 304) return null;
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}`);
  return { ...body, etag: response.headers.get("ETag") };
}
