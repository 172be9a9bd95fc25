import type { ApplianceBus, ApplianceFirmware } from './appliance.ts';

/** A virtual machine to describe. */
export interface OvfWish {
  readonly name: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly firmware: ApplianceFirmware;
  readonly bus: Exclude<ApplianceBus, 'virtio'>;
  readonly networkCards: number;
  readonly disks: readonly {
    readonly file: string;
    /** Bytes of the file, of the guest's disk, and of the data in it. */
    readonly fileBytes: number;
    readonly capacity: number;
    readonly populated: number;
  }[];
}

const controllers = {
  ide: { type: 5, subType: 'PIIX4', name: 'IDE Controller' },
  scsi: { type: 6, subType: 'lsilogic', name: 'SCSI Controller' },
  sata: { type: 20, subType: 'AHCI', name: 'SATA Controller' },
} as const;
/** Disks that fit one controller. */
const places = { ide: 2, scsi: 15, sata: 30 } as const;

/**
 * An OVF 1.0 descriptor (DSP0243) that VMware's and VirtualBox's importers take: streamOptimized disks, VMware's system
 * type and firmware key, one network called `VM Network`.
 */
export function encodeOvf(wish: OvfWish): string {
  const { disks } = wish;
  const network =
    wish.networkCards === 0
      ? ''
      : `  <NetworkSection>
    <Info>The list of logical networks</Info>
    <Network ovf:name="VM Network">
      <Description>The VM Network network</Description>
    </Network>
  </NetworkSection>
`;
  const firmware =
    wish.firmware === 'uefi'
      ? '      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>\n'
      : '';
  return `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References>
${disks.map(fileReference).join('')}  </References>
  <DiskSection>
    <Info>Virtual disk information</Info>
${disks.map(diskElement).join('')}  </DiskSection>
${network}  <VirtualSystem ovf:id="${escaped(wish.name)}">
    <Info>A virtual machine</Info>
    <Name>${escaped(wish.name)}</Name>
    <OperatingSystemSection ovf:id="1">
      <Info>The kind of installed guest operating system</Info>
      <Description>Other</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware requirements</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>${escaped(wish.name)}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>
      </System>
${hardware(wish).map(item).join('')}${firmware}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`;
}

type WishedDisk = OvfWish['disks'][number];

function fileReference({ file, fileBytes }: WishedDisk, index: number): string {
  return `    <File ovf:href="${escaped(file)}" ovf:id="file${index + 1}" ovf:size="${fileBytes}"/>\n`;
}

function diskElement({ capacity, populated }: WishedDisk, index: number): string {
  return (
    `    <Disk ovf:capacity="${capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk${index + 1}" ` +
    `ovf:fileRef="file${index + 1}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized" ` +
    `ovf:populatedSize="${populated}"/>\n`
  );
}

type Item = Readonly<Record<string, string | number>>;

/** Processors, memory, controllers, disks and network cards, by their numbers in that order. */
function hardware(wish: OvfWish): Item[] {
  const perController = places[wish.bus];
  const controllerCount = Math.max(1, Math.ceil(wish.disks.length / perController));
  const firstController = 3;
  const firstDisk = firstController + controllerCount;
  const controller = controllers[wish.bus];
  return [
    {
      AllocationUnits: 'hertz * 10^6',
      Description: 'Number of Virtual CPUs',
      ElementName: `${wish.cpus} virtual CPU(s)`,
      InstanceID: 1,
      ResourceType: 3,
      VirtualQuantity: wish.cpus,
    },
    {
      AllocationUnits: 'byte * 2^20',
      Description: 'Memory Size',
      ElementName: `${wish.memoryMiB}MB of memory`,
      InstanceID: 2,
      ResourceType: 4,
      VirtualQuantity: wish.memoryMiB,
    },
    ...Array.from({ length: controllerCount }, (_, index) => ({
      Address: index,
      Description: controller.name,
      ElementName: `${controller.name} ${index}`,
      InstanceID: firstController + index,
      ResourceSubType: controller.subType,
      ResourceType: controller.type,
    })),
    ...wish.disks.map((_, index) => ({
      AddressOnParent: index % perController,
      ElementName: `Hard Disk ${index + 1}`,
      HostResource: `ovf:/disk/vmdisk${index + 1}`,
      InstanceID: firstDisk + index,
      Parent: firstController + Math.floor(index / perController),
      ResourceType: 17,
    })),
    ...Array.from({ length: wish.networkCards }, (_, index) => ({
      AutomaticAllocation: 'true',
      Connection: 'VM Network',
      Description: 'E1000 ethernet adapter',
      ElementName: `Ethernet ${index + 1}`,
      InstanceID: firstDisk + wish.disks.length + index,
      ResourceSubType: 'E1000',
      ResourceType: 10,
    })),
  ];
}

/** The schema wants the elements in the alphabet's order. */
function item(values: Item): string {
  const lines = Object.entries(values)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `        <rasd:${name}>${escaped(String(value))}</rasd:${name}>\n`);
  return `      <Item>\n${lines.join('')}      </Item>\n`;
}

function escaped(text: string): string {
  return (
    text
      // XML has no way to write these.
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is meant
      .replace(/[\x00-\x1f\x7f\ufffe\uffff]/g, ' ')
      .replaceAll('&', '&amp;')
      .replaceAll('<', '&lt;')
      .replaceAll('>', '&gt;')
      .replaceAll('"', '&quot;')
  );
}
