/* A worker that is no worker: whatever it sends costs the replica and the row, never more. The script
 * poses as the interpreter; what it does is named in the file `mode` beside it. */
#include "rig.inc.h"

static struct rig rig;

static const char script[] =
        "#!/usr/bin/env python3\n"
        "import json, os, random, socket, struct, sys, time\n"
        "sys.path.insert(0, os.environ['PYTHONPATH'])\n"
        "from kizashi import _wire as w\n"
        "if '-c' in sys.argv:\n"
        "    print(sys.argv[0]); print('3.11.0'); print(''); print('ok'); print('0'); sys.exit()\n"
        "mode = open(os.path.join(os.path.dirname(sys.argv[0]), 'mode')).read()\n"
        "s = socket.socket(fileno=3)\n"
        "def send(b):\n"
        "    s.sendall(b)\n"
        "def end():\n"
        "    time.sleep(30)\n"
        "def read():\n"
        "    h = b''\n"
        "    while len(h) < 12: h += s.recv(12 - len(h)) or sys.exit()\n"
        "    n, kind, _, _, ident = w.HEADER.unpack(h)\n"
        "    p = b''\n"
        "    while len(p) < n: p += s.recv(n - len(p)) or sys.exit()\n"
        "    return kind, ident, p\n"
        "hello = w.frame(w.HELLO, 0, w.pack_hello(1, False, '0', '3', ''))\n"
        "early = {\n"
        "    'random': random.Random(1).randbytes(100000),\n"
        "    'huge': b'\\xff' * 12,\n"
        "    'version': struct.pack('<IBBHI', 0, 0x81, 9, 0, 0),\n"
        "    'reserved': struct.pack('<IBBHI', 0, 0x81, 1, 9, 0),\n"
        "    'short hello': w.frame(w.HELLO, 0, b'123'),\n"
        "    'long hello': w.frame(w.HELLO, 0, w.pack_hello(1, False, '0', '3', '') + b'x'),\n"
        "    'old hello': w.frame(w.HELLO, 0, struct.pack('<HHII', 7, 9, 1, 0) + 3 * w.pack_str('')),\n"
        "    'bad text hello': w.frame(w.HELLO, 0, struct.pack('<HHII', 1, 1, 1, 0) + b'\\1\\0\\0\\0\\xff'),\n"
        "    'ready first': w.frame(w.READY, 0, w.pack_ready(False, 1, 0, 'M')),\n"
        "    'result first': w.frame(w.RESULT, 0, b''),\n"
        "    'two hellos': hello + hello,\n"
        "    'forked': w.frame(w.FORKED, 0, struct.pack('<I', 1)),\n"
        "    'half a header': b'\\1\\2\\3',\n"
        "}\n"
        "if mode in early:\n"
        "    send(early[mode]); mode == 'half a header' and sys.exit(); end()\n"
        "send(hello)\n"
        "kind, ident, p = read()\n"
        "assert kind == w.LOAD and json.loads(p)['columns'] == [{'name': 'x', 'type': 'number'}], p\n"
        "late = {\n"
        "    'wrong ready id': w.frame(w.READY, ident + 1, w.pack_ready(False, 1, 0, 'M')),\n"
        "    'short ready': w.frame(w.READY, ident, b''),\n"
        "    'short failed': w.frame(w.FAILED, ident, b'\\1\\0\\0\\0'),\n"
        "}\n"
        "if mode in late:\n"
        "    send(late[mode]); end()\n"
        "send(w.frame(w.READY, ident, w.pack_ready(True, 1, 0, 'M')))\n"
        "if mode == 'unasked':\n"
        "    send(w.frame(w.RESULT, ident, b'')); end()\n"
        "one = struct.pack('<d', 1.0)\n"
        "def result(n=1, kind=1, flags=0, reserved=0, m=1, rest=one + b'\\0'):\n"
        "    return w.frame(w.RESULT, ident, struct.pack('<IBBHII', n, kind, flags, reserved, m, 5) + rest)\n"
        "def dicts(text, sizes=None, total=None):\n"
        "    return result(kind=3, m=0, rest=struct.pack('<II', len(text) if total is None else total,\n"
        "        len(text) if sizes is None else sizes) + text + b'\\0')\n"
        "while True:\n"
        "    kind, ident, p = read()\n"
        "    if kind == w.SHUTDOWN: sys.exit()\n"
        "    if kind == w.FORK: send(w.frame(w.FORKED, ident, struct.pack('<I', 1))); continue\n"
        "    n = struct.unpack_from('<I', p)[0]\n"
        "    nan = struct.pack('<d', float('nan'))\n"
        "    inf = struct.pack('<d', float('inf'))\n"
        "    answers = {\n"
        "        'good': result(n, rest=one * n + bytes(n)),\n"
        "        'n too large': result(n + 1), 'n huge': result(0xffffffff), 'n zero': result(0, rest=b''),\n"
        "        'kind': result(kind=9), 'kind 0': result(kind=0), 'flags': result(flags=2),\n"
        "        'reserved2': result(reserved=1), 'm huge': result(kind=2, m=0xffffffff),\n"
        "        'm zero': result(kind=2, m=0, rest=b'\\0'), 'scalar m': result(m=2, rest=one + one + b'\\0'),\n"
        "        'cut short': result(rest=one[:5]), 'no status': result(rest=one),\n"
        "        'trailing': result(rest=one + b'\\0\\0'), 'nan': result(rest=nan + b'\\0'),\n"
        "        'inf': result(rest=inf + b'\\0'), 'empty': w.frame(w.RESULT, ident, b''),\n"
        "        'messages cut': result(flags=1, rest=one + b'\\3\\xff\\xff\\xff\\xff\\4\\0\\0\\0'),\n"
        "        'messages utf8': result(flags=1, rest=one + b'\\3\\1\\0\\0\\0\\1\\0\\0\\0\\xff'),\n"
        "        'not json': dicts(b'{\"a\":'), 'array': dicts(b'[1]'), 'json utf8': dicts(b'{\"\\xff\":1}'),\n"
        "        'deep': dicts(b'{\"a\":' * 9999 + b'1' + b'}' * 9999), 'json nan': dicts(b'{\"a\":NaN}'),\n"
        "        'null dict': dicts(b'', sizes=0xffffffff), 'long size': dicts(b'{}', sizes=3),\n"
        "        'total': dicts(b'{}', total=0xfffffff0), 'rest of texts': dicts(b'{}{}', sizes=2),\n"
        "        'wrong id': w.frame(w.RESULT, ident + 1, b''), 'hello again': hello,\n"
        "        'error cut': w.frame(w.ERROR, ident, b'\\1\\0\\0\\0\\0\\0\\0\\0\\xff\\xff\\xff\\xff'),\n"
        "        'error protocol': w.frame(w.ERROR, ident, w.pack_error(4, 0, 'what?')),\n"
        "        'pong': w.frame(w.PONG, ident, b''), 'type 0': w.frame(0, ident, b''),\n"
        "        'size': struct.pack('<IBBHI', 0xffffffff, 0x84, 1, 0, ident),\n"
        "        'a long time': b'',\n"
        "        'and garbage': b'\\xee' * 70000,\n"
        "    }\n"
        "    send(answers[mode])\n";

static void write_text(const char *name, const char *text, int mode)
{
    char path[128];
    FILE *out;

    snprintf(path, sizeof(path), "%s/%s", rig.dir, name);
    out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
    assert_int_equal(chmod(path, (mode_t)mode), 0);
}

static char python[128];

static void open_mode(const char *mode, unsigned replicas_max)
{
    struct kz_model_def *def;

    rig_init(&rig);
    snprintf(python, sizeof(python), "%s/python", rig.dir);
    write_text("python", script, 0700);
    write_text("mode", mode, 0600);
    rig.project.limits.python = python;
    rig.options.fence_after = 2;
    def = rig_model(&rig, "", "x");
    def->timeout_ms = RIG_WAIT_MS;
    def->replicas.max = replicas_max;
    def->batch.size_max = 1;
    rig_open(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
}

static bool is_fenced(const struct kz_infer_status *status)
{
    return status->fenced;
}

static void test_before_it_is_ready(void **state)
{
    static const char *const modes[] = {"random", "huge", "version", "reserved", "short hello",
            "long hello", "old hello", "bad text hello", "ready first", "result first",
            "two hellos", "forked", "half a header", "wrong ready id", "short ready",
            "short failed", "unasked"};

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(modes); i++) {
        const char *code = strcmp(modes[i], "half a header") == 0 ? "crash" : "protocol";

        open_mode(modes[i], 1);
        rig_until(&rig, 0, is_fenced);
        if (!strstr(rig_status(&rig, 0).reason, code))
            fail_msg("%s: %s", modes[i], rig_status(&rig, 0).reason);
        rig_close(&rig);
    }
}

static void test_answers(void **state)
{
    static const char *const modes[] = {"n too large", "n huge", "n zero", "kind", "kind 0",
            "flags", "reserved2", "m huge", "m zero", "scalar m", "cut short", "no status",
            "trailing", "nan", "inf", "empty", "messages cut", "messages utf8", "not json", "array",
            "json utf8", "deep", "json nan", "null dict", "long size", "total", "rest of texts",
            "wrong id", "hello again", "error cut", "error protocol", "pong", "type 0", "size",
            "and garbage"};

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(modes); i++) {
        open_mode(modes[i], 1);
        rig_wait(&rig, 1);
        if (rig.results[0]->end != KZ_END_DEAD)
            fail_msg("%s: end %d", modes[i], rig.results[0]->end);
        assert_string_equal(rig.results[0]->code, "protocol");
        assert_int_equal(rig.results[0]->attempt_count, 2);
        rig_close(&rig);
    }
}

static bool tried_a_fork(const struct kz_infer_status *status)
{
    return status->done >= 20;
}

/* READY said that it can fork, FORKED that it did, and nobody is there: no signal is sent to the pid
 * that it named (1), and the model goes on. */
static void test_a_fork_that_never_was(void **state)
{
    (void)state;
    open_mode("good", 3);
    rig_wait(&rig, 1);
    rig_assert_done(&rig, 0, 1);
    for (unsigned i = 1; i < 20; i++)
        rig_ask(&rig, i, "{\"x\": 1}");
    rig_wait(&rig, 20);
    rig_until(&rig, 0, tried_a_fork);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_before_it_is_ready),
            cmocka_unit_test(test_answers),
            cmocka_unit_test(test_a_fork_that_never_was),
    };
    char path[4096];

    setenv("KIZASHI_PYTHONPATH", realpath("python", path), 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
