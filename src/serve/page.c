/* serve/page.c -- the dashboard: web/index.html, in the binary. */

#include "serve/serve_int.h"

#ifdef KZ_WEB_DIR
__asm__(".pushsection .rodata\n"
        ".global kz_serve_index_html\n"
        "kz_serve_index_html:\n"
        ".incbin \"" KZ_WEB_DIR "/index.html\"\n"
        ".global kz_serve_index_html_end\n"
        "kz_serve_index_html_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const char kz_serve_index_html[], kz_serve_index_html_end[];
#else
static const char kz_serve_index_html[] =
        "<!doctype html><title>Kizashi</title><p>This build has no dashboard (KZ_WEB_DIR was not "
        "set). GET <a href=/v1>/v1</a> lists what can be asked.";
#define kz_serve_index_html_end (kz_serve_index_html + sizeof(kz_serve_index_html) - 1)
#endif

void kz_serve_page(struct kz_serve_call *call)
{
    /* Nothing from elsewhere, and nobody frames it. Script and style are inline in the one file. */
    static const struct kz_http_header headers[] = {
            {{"Cache-Control", 13}, {"no-cache", 8}},
            {KZ_STR("Content-Security-Policy"),
                    KZ_STR("default-src 'none'; script-src 'unsafe-inline'; style-src "
                           "'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
                           "form-action 'none'; frame-ancestors 'none'")},
            {KZ_STR("X-Content-Type-Options"), KZ_STR("nosniff")},
            {KZ_STR("Referrer-Policy"), KZ_STR("no-referrer")},
    };

    kz_serve_answered(call);
    kz_http_respond(call->req, 200, "text/html; charset=utf-8",
            kz_str_n(kz_serve_index_html, (size_t)(kz_serve_index_html_end - kz_serve_index_html)),
            headers, KZ_ARRAY_COUNT(headers));
}
