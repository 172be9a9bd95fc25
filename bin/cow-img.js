#!/usr/bin/env node
require('../dist/programs/launch.cjs').run('cow-img');
