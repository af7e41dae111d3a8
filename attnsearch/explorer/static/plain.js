// A page without anything to do but its buttons.

import { bindPage } from "./page.js";

bindPage();
