/** Reports to a program: one JSON line per test, with its name and why it failed, or null. */
export default async function* report(events) {
  for await (const { type, data } of events) {
    if (type === "test:pass" || type === "test:fail") {
      yield JSON.stringify({ name: data.name, failure: whyFailed(data) }) + "\n";
    }
  }
}

function whyFailed({ details, skip, todo }) {
  if (skip !== undefined || todo !== undefined) return "It was skipped.";
  const error = details.error?.cause ?? details.error;
  return error ? String(error.stack ?? error) : null;
}
