// Compiles one request a line, for as long as lines come. A compiler that is loaded and warm takes a
// third of the time of one that starts.
const solc = require(process.argv[2]);
require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (request) => process.stdout.write(solc.compile(request) + "\n"));
