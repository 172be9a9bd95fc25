#!/usr/bin/env node
require('./built.js').run('cowherd');
