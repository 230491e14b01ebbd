// Prints a line per test, in the form that `run.py` adds up.

const suites = [];

function line(word, { name, nesting, details }) {
  const full = [...suites.slice(0, nesting), name].join(": ");
  return `${word}  ${full} (${(details.duration_ms / 1000).toFixed(1)} s)\n`;
}

// A file and a suite are reported beside the tests in them; they count only where they broke by themselves.
const isTest = ({ name, details }) => details.type !== "suite" && !name.endsWith(".test.mjs");

const brokenInside = ({ details }) => details.error?.failureType === "subtestsFailed";

export default async function* report(events) {
  for await (const { type, data } of events) {
    if (type === "test:start") suites[data.nesting] = data.name;
    else if (type === "test:pass" && data.skip !== undefined) yield `skip  ${data.name}: ${data.skip}\n`;
    else if (type === "test:pass" && isTest(data)) yield line("ok  ", data);
    else if (type === "test:fail" && (isTest(data) || !brokenInside(data))) {
      yield line("FAIL", data);
      const error = data.details.error;
      yield `      ${String(error?.cause?.stack ?? error?.cause ?? error).replaceAll("\n", "\n      ")}\n`;
    } else if (type === "test:stderr" || type === "test:stdout") yield `      ${data.message}`;
  }
}
