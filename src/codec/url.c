#include "codec/url.h"

void kz_url_encode(struct kz_str text, struct kz_buf *buf)
{
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = (uint8_t)text.ptr[i];

        if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                (c && strchr("-._~", c))) {
            kz_buf_u8(buf, c);
        } else {
            kz_buf_char(buf, '%');
            kz_buf_char(buf, "0123456789ABCDEF"[c >> 4]);
            kz_buf_char(buf, "0123456789ABCDEF"[c & 15]);
        }
    }
}
