//! Byte operations (counteq, crc32c, fnv64, xor, add) at memory speed
