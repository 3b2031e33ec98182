/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "act/places.h"
#include "act/webhook.h"

static unsigned take_all(struct kz_places *places, size_t action)
{
    unsigned count = 0;

    for (; kz_places_any(places, action); count++)
        kz_places_take(places, action);
    return count;
}

static void one_that_takes_all_leaves_the_others_their_share(void **state)
{
    struct kz_action_def actions[] = {
            {.deliver.kind = KZ_DELIVER_WEBHOOK},
            {.deliver.kind = KZ_DELIVER_WEB},
            {.deliver.kind = KZ_DELIVER_WEBHOOK},
    };
    struct kz_project project = {.actions = actions, .action_count = 3};
    struct kz_places places;

    (void)state;
    assert_int_equal(KZ_WEBHOOKS_ACTIVE_MAX, 64);
    kz_places_init(&places, &project);
    assert_int_equal(take_all(&places, 0), 48); /* 16 of its own and the 32 of all */
    assert_int_equal(take_all(&places, 2), 16);
    kz_places_give(&places, 0); /* one of all: whoever comes first has it */
    assert_int_equal(take_all(&places, 2), 1);
    assert_false(kz_places_any(&places, 0));
    kz_places_give(&places, 2);
    assert_int_equal(take_all(&places, 0), 1);
    for (int i = 0; i < 48; i++)
        kz_places_give(&places, 0);
    for (int i = 0; i < 16; i++)
        kz_places_give(&places, 2);
    assert_int_equal(take_all(&places, 2), 48);
    kz_places_done(&places);
}

/* More actions than half of the places: what there is is everybody's. */
static void many_actions_have_no_share(void **state)
{
    struct kz_action_def actions[40];
    struct kz_project project = {.actions = actions, .action_count = 40};
    struct kz_places places;

    (void)state;
    for (size_t i = 0; i < 40; i++)
        actions[i] = (struct kz_action_def){.deliver.kind = KZ_DELIVER_WEBHOOK};
    kz_places_init(&places, &project);
    assert_int_equal(take_all(&places, 39), 64);
    assert_false(kz_places_any(&places, 0));
    kz_places_give(&places, 39);
    assert_int_equal(take_all(&places, 0), 1);
    kz_places_done(&places);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(one_that_takes_all_leaves_the_others_their_share),
            cmocka_unit_test(many_actions_have_no_share),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
