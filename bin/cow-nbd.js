#!/usr/bin/env node
import '../dist/programs/cow-nbd.mjs';
