// `npm pack` and `npm publish`, and the `prepare` of `npm install git+…`, which runs no other script: a package without the build would be an
// empty one. npm runs `prepare` after each `npm ci` and `npm install` here too, where nobody waits for a build; it names what it packs only otherwise.
const { npm_lifecycle_event: event, npm_package_resolved: packed } = process.env;
if (event !== 'prepare' || packed) {
  const { buildWhenNeeded, installPackages } = await import('./bootstrap.mjs');
  installPackages();
  buildWhenNeeded();
}
