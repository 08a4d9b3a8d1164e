# A guest in one boot sector, which uses the disk that it came from through the firmware's driver. For each number from 1
# on it writes the number to one of 64 sectors, reads it back, reads the sector that was written 63 numbers ago, and
# writes the number to the debug console. 0xffffffff there: a command failed, or a sector has another content.
        .code16
        .set    BLOCKS, 64              # sectors in use, and the first of them
        .set    WRITTEN, 0x8000
        .set    READ, 0x8200
        .set    DWORDS, 128             # in a sector
        .set    CONSOLE, 0xe9
        .globl  _start
_start: xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
        movb    %dl, drive
next:   incl    number
        movl    number, %eax
        movw    $WRITTEN, %di
        movw    $DWORDS, %cx
        rep stosl
        movw    number, %bx
        movw    $WRITTEN, offset
        movb    $0x43, %ah              # extended write
        call    access
        movw    $READ, offset
        movb    $0x42, %ah              # extended read
        call    access
        movl    number, %eax
        call    compare
        movw    number, %bx
        incw    %bx
        movb    $0x42, %ah
        call    access
        movl    number, %eax
        subl    $(BLOCKS - 1), %eax
        jbe     tell                    # that sector was never written
        call    compare
tell:   movl    number, %eax
        call    print
        jmp     next

access: andw    $(BLOCKS - 1), %bx      # the command in %ah, on the sector of the number in %bx
        addw    $BLOCKS, %bx
        movw    %bx, sector
        movw    $packet, %si
        movb    drive, %dl
        movb    $0, %al
        int     $0x13
        jc      failed
        ret

compare:
        movw    $READ, %di              # what was read, with the number in %eax
        movw    $DWORDS, %cx
        repe scasl
        jne     failed
        ret

print:  movw    $4, %cx
1:      outb    %al, $CONSOLE
        shrl    $8, %eax
        loop    1b
        ret

failed: movl    $0xffffffff, %eax
        call    print
1:      hlt
        jmp     1b

packet: .byte   16, 0                   # disk address packet: one sector
        .word   1
offset: .word   0, 0
sector: .word   0, 0, 0, 0
number: .long   0
drive:  .byte   0
        .org    510
        .word   0xaa55
