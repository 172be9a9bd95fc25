/**
 * OpenSSL's list of what both ends of NBD take with keys that were agreed on beforehand. `PSK` names suites without
 * encryption too, which the security level (that of GnuTLS, whose peers are to be met) would let in.
 */
export const pskSuites = 'PSK:!eNULL:!aNULL:!RC4:!3DES:@SECLEVEL=0';
