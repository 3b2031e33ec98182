/* app/commands/template.h -- the small project that `kizashi init` makes. */
#pragma once

#include "base/base.h"

struct kz_template_file {
    const char *path; /* below the project's directory */
    const char *text; /* @PROJECT@ stands for the project's name */
};

extern const struct kz_template_file kz_template[];
extern const size_t kz_template_count;
