/** The lab file of the demo: the text of examples/classroom.yaml, which a test holds equal. */
export const exampleLab = `# yaml-language-server: $schema=../schema/lab.schema.json
#
# A classroom: forty seats that share one master image. Three lines are all that a lab file needs. Paths are relative to
# this file; 'cowherd demo' makes this master.
lab: classroom
master: ../.demo/masters/demo.qcow2
seats: 40

# Everything below has a default that suits most classes: the folder ./classroom/, 1G of memory, network: user.
pool: ../.demo/classroom
# The demo's guest is a boot sector: it needs next to nothing.
memory: 16M
network: none
# Each seat's name is written into its disk. Only Cowherd's own demo guest reads it.
guest: demo
`;
