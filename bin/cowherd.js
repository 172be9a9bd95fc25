#!/usr/bin/env node
import '../dist/programs/cowherd.mjs';
