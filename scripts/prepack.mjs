// `npm pack` and `npm publish`: a package without the build would be an empty one.
import { buildWhenNeeded, installPackages } from './bootstrap.mjs';

installPackages();
buildWhenNeeded();
