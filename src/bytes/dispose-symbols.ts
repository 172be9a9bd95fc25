/**
 * Gives the runtime `Symbol.dispose` and `Symbol.asyncDispose` where it lacks them (browsers before explicit
 * resource management): classes use them as method names when their modules are loaded, so this one is loaded
 * first. The symbols are those that compilers fall back on.
 *
 * @module
 */
define('dispose');
define('asyncDispose');

function define(name: 'dispose' | 'asyncDispose'): void {
  if (Symbol[name] !== undefined) return;
  Object.defineProperty(Symbol, name, { value: Symbol.for(`Symbol.${name}`) });
}
