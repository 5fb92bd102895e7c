;; Counts the words of a file, as `wc -w FILE` does, or of standard input without an argument.
;;
;;   weft run --wasm examples/wasm/wordcount.wat --each '/usr/share/common-licenses/*' -- {}
;;
;; WASI preview 1 and nothing else. The file is looked up in the first directory that was opened beforehand
;; (descriptor 3), which Weft makes the task's working directory.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  ;;      0 scratch: number of arguments, their size, a new descriptor, bytes read or written
  ;;     16 one i/o vector: address and length
  ;;     64 digits, written backwards up to 95; 96 a space or a new line
  ;;    128 messages
  ;;   1024 pointers to the arguments, at most 1024 of them, then their text
  ;;  65536 what was read
  (memory (export "memory") 3)
  (data (i32.const 128) "wordcount: cannot read the file\n")
  (data (i32.const 192) "wordcount: too many arguments\n")
  (global $pointers i32 (i32.const 1024))
  (global $texts i32 (i32.const 5120))
  (global $texts_size i32 (i32.const 60416))
  (global $buffer i32 (i32.const 65536))
  (global $buffer_size i32 (i32.const 131072))

  (func $write (param $fd i32) (param $address i32) (param $length i32)
    (loop $more
      (i32.store (i32.const 16) (local.get $address))
      (i32.store (i32.const 20) (local.get $length))
      (if (call $fd_write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 12))
        (then (call $proc_exit (i32.const 1))))
      (local.set $address (i32.add (local.get $address) (i32.load (i32.const 12))))
      (local.tee $length (i32.sub (local.get $length) (i32.load (i32.const 12))))
      (br_if $more)))

  (func $fail (param $message i32) (param $length i32)
    (call $write (i32.const 2) (local.get $message) (local.get $length))
    (call $proc_exit (i32.const 1)))

  (func $length_of (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $text)))

  (func $open (param $path i32) (result i32)
    (if (call $path_open
          (i32.const 3) (i32.const 1) (local.get $path) (call $length_of (local.get $path))
          (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8))
      (then (call $fail (i32.const 128) (i32.const 32))))
    (i32.load (i32.const 8)))

  ;; Space, and 9 to 13: tab, line feed, vertical tab, form feed, carriage return.
  (func $is_space (param $byte i32) (result i32)
    (i32.or
      (i32.eq (local.get $byte) (i32.const 32))
      (i32.lt_u (i32.sub (local.get $byte) (i32.const 9)) (i32.const 5))))

  (func $count (param $fd i32) (result i64)
    (local $words i64) (local $in_word i32) (local $at i32) (local $end i32) (local $space i32)
    (block $done
      (loop $fill
        (i32.store (i32.const 16) (global.get $buffer))
        (i32.store (i32.const 20) (global.get $buffer_size))
        (if (call $fd_read (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 12))
          (then (call $fail (i32.const 128) (i32.const 32))))
        (br_if $done (i32.eqz (i32.load (i32.const 12))))
        (local.set $at (global.get $buffer))
        (local.set $end (i32.add (global.get $buffer) (i32.load (i32.const 12))))
        (loop $next
          (local.set $space (call $is_space (i32.load8_u (local.get $at))))
          ;; A word begins where something other than space follows space.
          (local.set $words (i64.add (local.get $words)
            (i64.extend_i32_u (i32.eqz (i32.or (local.get $space) (local.get $in_word))))))
          (local.set $in_word (i32.eqz (local.get $space)))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
        (br $fill)))
    (local.get $words))

  (func $print_number (param $number i64)
    (local $at i32)
    (local.set $at (i32.const 96))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
      (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
      (br_if $next (i64.ne (local.get $number) (i64.const 0))))
    (call $write (i32.const 1) (local.get $at) (i32.sub (i32.const 96) (local.get $at))))

  (func $print_byte (param $byte i32)
    (i32.store8 (i32.const 96) (local.get $byte))
    (call $write (i32.const 1) (i32.const 96) (i32.const 1)))

  (func (export "_start")
    (local $path i32)
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (if (i32.or
          (i32.gt_u (i32.load (i32.const 0)) (i32.const 1024))
          (i32.gt_u (i32.load (i32.const 4)) (global.get $texts_size)))
      (then (call $fail (i32.const 192) (i32.const 30))))
    (drop (call $args_get (global.get $pointers) (global.get $texts)))
    (if (i32.lt_u (i32.load (i32.const 0)) (i32.const 2))
      (then (call $print_number (call $count (i32.const 0))))
      (else
        (local.set $path (i32.load offset=4 (global.get $pointers)))
        (call $print_number (call $count (call $open (local.get $path))))
        (call $print_byte (i32.const 32))
        (call $write (i32.const 1) (local.get $path) (call $length_of (local.get $path)))))
    (call $print_byte (i32.const 10))))
