// What starts the built programs; without a build (a clone, a package installed from a repository) it says how to make one.
const { existsSync } = require('node:fs');
const { dirname, join } = require('node:path');

const launcher = join(__dirname, '../dist/programs/launch.cjs');

module.exports = existsSync(launcher)
  ? require(launcher)
  : {
      run(name) {
        const clone = dirname(__dirname);
        console.error(`${name}: Cowherd is not built here ('${clone}')`);
        console.error("  in a clone type 'npm start', or 'npm install' and 'npm run build'");
        process.exitCode = 1;
      },
    };
