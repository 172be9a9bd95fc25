/** A systemd unit for `cowherd guard --pool`, the same as contrib/systemd/cowherd-guard@.service. */
export const guardUnit = `# Guards the masters in a folder: systemctl enable --now "cowherd-guard@$(systemd-escape --path /srv/masters).service"
[Unit]
Description=Locks that keep QEMU from writing to the masters in /%I
Documentation=https://www.npmjs.com/package/cowherd
RequiresMountsFor=/%I

[Service]
Type=exec
ExecStart=/usr/bin/env cowherd guard --pool /%I
Restart=on-failure
RestartSec=5
# It only reads: the masters themselves, and the records beside them.
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_DAC_READ_SEARCH

[Install]
WantedBy=multi-user.target
`;
