import * as z from 'zod';

const makeSchema = () => {
  const text = (what: string) =>
    z.string({ error: `${what} must be a text` }).min(1, { error: `${what} must not be empty` });

  const keys = z
    .array(text('a key').regex(/^\P{Cc}+$/u, { error: 'a key must be one line, as in a .pub file' }), {
      error: 'keys must be a list of public SSH keys',
    })
    .max(100);

  const user = z.strictObject(
    {
      name: text("the user's name").regex(/^[a-z_{][a-z0-9_{}-]{0,31}$/, {
        error: "the user's name must be made of a-z, 0-9, - and _",
      }),
      keys: keys.default([]),
      password: text('the password')
        .optional()
        .meta({ description: "A hash, as 'openssl passwd -6' prints it, or the password itself" }),
      sudo: z.boolean({ error: 'sudo must be true or false' }).default(false),
      groups: z.array(text('a group'), { error: 'groups must be a list' }).default([]),
      shell: text('shell').default('/bin/bash'),
    },
    { error: 'a user must be a mapping, such as {name: student, keys: [ssh-ed25519 …]}' },
  );

  const address = text('the address').meta({ description: 'With its prefix: 10.0.0.{n}/24' });
  const network = z.union(
    [
      z.enum(['dhcp', 'none'], {
        error: "the seed's network must be dhcp, none or {address: 10.0.0.{n}/24}",
      }),
      z.strictObject({
        address,
        gateway: text('the gateway').optional(),
        dns: z.array(text('a name server'), { error: 'dns must be a list of addresses' }).default([]),
        first: z
          .int({ error: 'first must be a whole number' })
          .min(0)
          .max(16_000_000)
          .default(1)
          .meta({ description: "The first seat's {n}" }),
      }),
    ],
    { error: "the seed's network must be dhcp, none or {address: 10.0.0.{n}/24, gateway: …, dns: […]}" },
  );

  return z.strictObject(
    {
      hostname: text('hostname')
        .default('{seat}')
        .meta({ description: 'The host name; {seat}, {lab}, {n} are known' }),
      keys: keys.default([]).meta({ description: "Public SSH keys of the image's own user" }),
      users: z
        .array(user, { error: 'users must be a list' })
        .default([])
        .meta({ description: 'Users to make' }),
      network: network
        .default('dhcp')
        .meta({ description: "What the card with the seat's MAC address is to do; none: the image decides" }),
      'user-data': text('user-data').optional().meta({
        description: 'A file with more for cloud-init: #cloud-config, or a script; relative to this file',
      }),
    },
    { error: 'seed must be a mapping, such as {hostname: "{seat}", users: [{name: student}]}' },
  );
};

let made: ReturnType<typeof makeSchema> | undefined;

/** `seed:` of the lab file. In its texts `{seat}`, `{lab}`, `{n}`, `{uuid}` and `{mac}` stand for the seat's own. */
export function seedSchema(): ReturnType<typeof makeSchema> {
  made ??= makeSchema();
  return made;
}

export type SeedDocument = z.output<ReturnType<typeof seedSchema>>;
