#!/usr/bin/env node
import '../dist/programs/cow-img.mjs';
