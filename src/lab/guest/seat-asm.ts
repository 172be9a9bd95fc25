/**
 * The demo guest: a boot sector for 16-bit x86, in NASM's syntax. It is the whole operating system of a demo
 * seat: it counts its boots on its own disk, says so on the serial port, and switches the machine off.
 *
 * Sources: Ralf Brown's interrupt list (INT 10h AH=0Eh, INT 13h AH=41h to 43h, INT 15h AX=5301h, 530Eh, 5307h),
 * the BIOS data area's tick count at 0040:006Ch, National Semiconductor's PC16550D data sheet (the UART).
 */
export const seatListing = `; seat.asm: the guest of a demo seat, a boot sector and one more.
;
; The disk, in sectors of 512 bytes:
;   0    the first part of this program, and the partition table
;   1    the second part
;   128  the record (byte 65536: a qcow2 cluster of its own)
;
; The record:
;   +0   8 bytes   magic "COWHERD!"
;   +8   word      version, 1
;   +10  word      zero
;   +12  dword     number of boots so far
;   +16  64 bytes  the seat's name, NUL-terminated ASCII
;   +80  64 bytes  the master's label, NUL-terminated ASCII
;
; It says "cowherd seat=student-07 boots=1 master=demo" only after the new count has been written to the disk and
; read back, or "cowherd seat error=..." with the reason.

        bits 16
        org 0x7c00

RECORD_LBA      equ 128
RECORD_VERSION  equ 1
RECORD_BOOTS    equ 12
RECORD_SEAT     equ 16
RECORD_MASTER   equ 80
NAME_BYTES      equ 64
SECTOR_BYTES    equ 512
CODE_BYTES      equ 440         ; then the disk's signature and the partition table

RECORD          equ 0x8000      ; where the record is read to, and changed
AGAIN           equ 0x8200      ; where it is read to again

BDA_TICKS       equ 0x046c      ; BIOS data area: grows 18.2 times a second
WAIT_TICKS      equ 12          ; 0.6 s: a guest that is gone at once looks like one that failed
COM1            equ 0x03f8
LINE_STATUS     equ COM1 + 5
UART_READY      equ 0x20        ; line status: the next byte may come

start:
        jmp 0:entry             ; some firmware starts boot sectors at 07c0:0000
entry:
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, start           ; the stack grows down from this program
        sti
        cld
        mov [drive], dl         ; the firmware says which disk it booted

; Serial port: 115200 baud, 8 bits, no parity.
        mov si, uart_setup
        mov cx, (uart_setup_end - uart_setup) / 2
        mov dx, COM1
.uart:
        lodsw                   ; al: the register, ah: its value
        mov dl, al
        mov al, ah
        out dx, al
        loop .uart

; Does the disk take linear block addresses?
        mov ah, 0x41
        mov bx, 0x55aa
        mov dl, [drive]
        int 0x13
        mov si, no_lba
        jc fail
        cmp bx, 0xaa55
        jne fail
        test cl, 1
        jz fail

; Fetch the second sector of this program; go on there.
        mov ah, 0x42
        mov bx, seat
        call transfer
        mov si, read_failed
        jc fail
        mov byte [packet_lba], RECORD_LBA
        jmp near seat

finish:
        mov si, newline
        call print

; Stay a little, asleep between the clock's ticks.
        mov cx, WAIT_TICKS
.stay:
        mov ax, [BDA_TICKS]
.asleep:
        hlt
        cmp ax, [BDA_TICKS]
        je .asleep
        loop .stay

; Power off by APM: connect, ask for version 1.2, set every device's state to off.
        mov ax, 0x5301
        xor bx, bx
        int 0x15
        mov ax, 0x530e
        xor bx, bx
        mov cx, 0x0102
        int 0x15
        mov ax, 0x5307
        mov bx, 1
        mov cx, 3
        int 0x15
; Still here: ACPI's control register, where QEMU and Bochs have it.
        mov ax, 0x2000
        mov dx, 0x0604
        out dx, ax
        mov dx, 0xb004
        out dx, ax
.halt:
        cli
        hlt
        jmp .halt

; Say what failed (text at si), then go the way of all seats.
fail:
        push si
        mov si, error_text
        call print
        pop si
        call print
        jmp finish

; Move the sector packet_lba between the disk and memory at bx: ah 0x42 reads, 0x43 writes. Carry: failed.
transfer:
        mov [packet_buffer], bx
        mov word [packet_count], 1
        mov al, 0
        mov dl, [drive]
        mov si, packet
        int 0x13
        ret

; Print the NUL-terminated text at si, NAME_BYTES at most.
print:
        mov cx, NAME_BYTES
.next:
        lodsb
        test al, al
        jz .done
        call put
        loop .next
.done:
        ret

; Print the character in al on the screen and on the serial port.
put:
        pusha
        push ax
        mov ah, 0x0e
        mov bx, 7
        int 0x10
        mov dx, LINE_STATUS
        xor cx, cx              ; 65536 looks at most: the port may not exist
.busy:
        in al, dx
        test al, UART_READY
        jnz .ready
        loop .busy
.ready:
        pop ax
        mov dx, COM1
        out dx, al
        popa
        ret

; Registers of the UART, low bytes of their ports, and what they are set to: interrupts off; divisor 1; 8N1;
; FIFOs on and empty; DTR and RTS.
uart_setup:
        db 0xf9, 0x00, 0xfb, 0x80, 0xf8, 0x01, 0xf9, 0x00, 0xfb, 0x03, 0xfa, 0xc7, 0xfc, 0x03
uart_setup_end:

; The disk address packet of INT 13h AH=42h and 43h.
packet:
        db 16, 0
packet_count:
        dw 1
packet_buffer:
        dw 0, 0
packet_lba:
        dd 1, 0
drive:
        db 0x80

error_text:
        db 'cowherd seat error=', 0
no_lba:
        db 'no-lba', 0
read_failed:
        db 'read', 0
newline:
        db 13, 10, 0

        times CODE_BYTES - ($ - $$) db 0
signature:
        dd 0
        dw 0
partition_table:
        times 64 db 0
        dw 0xaa55

; ------------------------------------------------------------------ the second sector

seat:
; Read the record; see that it is one.
        mov ah, 0x42
        mov bx, RECORD
        call transfer
        mov si, read_failed
        jc fail_far
        mov si, RECORD
        mov di, magic
        mov cx, (magic_end - magic) / 2
        repe cmpsw
        mov si, bad_record
        jne fail_far

; Count this boot, write, and trust only what comes back.
        inc dword [RECORD + RECORD_BOOTS]
        mov ah, 0x43
        mov bx, RECORD
        call transfer
        mov si, write_failed
        jc fail_far
        mov ah, 0x42
        mov bx, AGAIN
        call transfer
        mov si, read_failed
        jc fail_far
        mov si, RECORD
        mov di, AGAIN
        mov cx, SECTOR_BYTES / 2
        repe cmpsw
        mov si, write_lost
        jne fail_far

        mov si, seat_text
        call print
        mov si, RECORD + RECORD_SEAT
        call print
        mov si, boots_text
        call print
        mov eax, [RECORD + RECORD_BOOTS]
        call print_number
        mov si, master_text
        call print
        mov si, RECORD + RECORD_MASTER
        call print
        jmp near finish

fail_far:
        jmp near fail

; Print eax in decimal.
print_number:
        mov ebx, 10
        xor cx, cx
.divide:
        xor edx, edx
        div ebx
        push dx
        inc cx
        test eax, eax
        jnz .divide
.digit:
        pop ax
        add al, '0'
        call put
        loop .digit
        ret

magic:
        db 'COWHERD!'
        dw RECORD_VERSION
magic_end:

seat_text:
        db 'cowherd seat=', 0
boots_text:
        db ' boots=', 0
master_text:
        db ' master=', 0
bad_record:
        db 'record', 0
write_failed:
        db 'write', 0
write_lost:
        db 'write-lost', 0

        times 2 * SECTOR_BYTES - ($ - $$) db 0
`;
