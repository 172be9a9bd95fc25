/** The lab file of the demo: the text of examples/classroom.yaml, which a test holds equal. */
export const exampleLab = `# yaml-language-server: $schema=../schema/lab.schema.json
# A classroom: forty seats that share one master image. The first three lines are all that a lab file needs.
lab: classroom
master: ../.demo/masters/demo.qcow2   # relative to this file; 'cowherd demo' makes it
seats: 40                             # student-01 ... student-40

# Everything below has a default that suits most classes (memory 1G, network user ...).
pool: ../.demo/classroom              # where the seats' disks are kept; default: ./classroom/
memory: 16M                           # the demo's guest is a boot sector: it needs next to nothing
network: none
guest: demo                           # writes each seat's name into its disk; only Cowherd's own demo guest reads it
`;
