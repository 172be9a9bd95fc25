#!/usr/bin/env node
require('./built.js').run('cow-nbd');
