"""Tricky (prediction, references, score) cases, each worked out by hand from the published rules.

References are written `answer:annotators|answer:annotators`. Where 1, 2, 3 or 4 of ten gave an answer, it
scores 0.3, 0.6, 0.9 or 1.
"""

VQA = [
    ("yes", "yes:10", 1.0),
    ("Yes", "yes:10", 0.0),  # all agree: nothing is normalised
    ("Yes", "yes:9|no:1", 1.0),
    ("yes.", "yes:10", 0.0),
    ("yes.", "yes:9|no:1", 1.0),
    ("yes\n", "yes:10", 1.0),
    ("\tyes", "yes:10", 1.0),
    ("two", "2:10", 0.0),
    ("a", "a:10", 1.0),
    ("no", "yes:9|no:1", 0.3),
    ("no", "yes:8|no:2", 0.6),
    ("no", "yes:7|no:3", 0.9),
    ("no", "yes:6|no:4", 1.0),
    ("maybe", "yes:6|no:4", 0.0),
    ("yes it is", "yes:9|no:1", 0.0),
    ("", "yes:9|no:1", 0.0),
    ("two", "2:9|3:1", 1.0),
    ("2", "two:9|3:1", 1.0),
    ("none", "0:6|1:4", 1.0),
    ("zero", "0:3|1:7", 0.9),
    ("none", "zero:1|1:9", 0.3),
    ("ten", "10:9|11:1", 1.0),
    ("eleven", "11:9|10:1", 0.0),  # number words end with ten
    ("Seven", "7:9|8:1", 1.0),
    ("one way", "1 way:9|stop:1", 1.0),
    ("someone", "some1:9|no one:1", 0.0),
    ("a dog", "dog:9|cat:1", 1.0),
    ("the dog", "a dog:5|cat:5", 1.0),
    ("an umbrella", "umbrella:2|hat:8", 0.6),
    ("The Beatles", "beatles:9|band:1", 1.0),
    ("the", "a:9|dog:1", 1.0),  # both normalise to an empty text
    ("an", "dog:9|cat:1", 0.0),
    ("dont know", "don't know:9|no:1", 1.0),
    ("don't know", "dont know:9|no:1", 1.0),
    ("Dont", "don't:4|do:6", 1.0),
    ("oclock", "o'clock:5|noon:5", 1.0),
    ("twas", "'twas:5|was:5", 1.0),
    ("thats", "that's:4|this:6", 1.0),
    ("its", "it's:9|no:1", 0.0),  # not in the table
    ("couldnt've", "couldn't've:4|no:6", 1.0),
    ("couldn'tve", "couldn't've:4|no:6", 1.0),
    ("couldntve", "couldn't've:4|no:6", 0.0),
    ("somebody'd", "somebodyd:4|no:6", 1.0),  # an error in the published table
    ("yall'd've", "y'all'd've:4|no:6", 1.0),
    ("let's", "lets:4|no:6", 0.0),
    ("men's", "mens:9|women:1", 0.0),
    ("red,", "red:9|blue:1", 1.0),
    ("red, blue", "red blue:9|red:1", 1.0),
    ("red,blue", "red blue:9|red:1", 1.0),
    ("red,blue", "redblue:9|red:1", 0.0),
    ("red ,blue", "red blue:9|red:1", 1.0),
    ("1,000", "1000:9|100:1", 1.0),
    ("1,000 dogs/cats", "1000 dogscats:9|many:1", 1.0),  # a comma between digits lets all marks vanish
    ("dogs/cats", "dogs cats:9|dogs:1", 1.0),
    ("dogs / cats", "dogs cats:9|dogs:1", 1.0),
    ("and/or - both", "and or both:9|or:1", 1.0),
    ("t-shirt", "t shirt:9|shirt:1", 1.0),
    ("t-shirt", "tshirt:9|shirt:1", 0.0),
    ("t-shirt -", "tshirt:9|shirt:1", 1.0),  # the mark stands beside a blank somewhere
    ("yes!", "yes:9|no:1", 1.0),
    ("yes?", "yes:9|no:1", 1.0),
    ("(a)", "b:9|c:1", 0.0),
    ("[red]", "red:9|blue:1", 1.0),
    ('"stop"', "stop:9|go:1", 1.0),
    ("a+b", "b:9|c:1", 1.0),
    ("10-20", "10 20:9|15:1", 1.0),
    ("back\\slash", "back slash:9|slash:1", 1.0),
    ("@home", "home:9|away:1", 1.0),
    ("5.5", "5.5:9|6:1", 1.0),
    ("5.5", "55:9|6:1", 0.0),
    ("5.", "5:9|6:1", 1.0),
    (".5", "5:9|6:1", 0.0),
    ("u.s.", "us:9|usa:1", 1.0),
    ("st. louis", "st louis:9|louis:1", 1.0),
    ("10:30", "10:30:9|noon:1", 1.0),
    ("10:30", "10 30:9|noon:1", 0.0),  # a colon is no punctuation
    ("$5", "5:9|6:1", 0.0),
    ("50%", "50:9|51:1", 0.0),
    ("  red   car ", "red car:9|car:1", 1.0),
    ("red\ncar", "red car:9|car:1", 1.0),
    ("one, two", "1 2:9|3:1", 1.0),
    ("yes", "yes:2|no:3", (2 / 3 + 3 * 2 / 3) / 5),  # five annotators
]

TEXTVQA = [
    ("nokia", "nokia:10", 1.0),
    ("Nokia", "nokia:10", 1.0),
    ("nokia.", "nokia:1|phone:9", 0.3),
    ("NOKIA!", "Nokia:2|phone:8", 0.6),
    ("red,blue", "redblue:10", 1.0),  # EvalAI takes commas out first
    ("red,blue", "red blue:10", 0.0),
    ("red, blue", "red blue:10", 1.0),
    ("1,000", "1000:10", 1.0),
    ("10,20", "1020:10", 1.0),
    ("Coca-Cola", "coca cola:10", 1.0),
    ("john's", "john 's:5|john:5", 1.0),
    ("what's", "what 's:5|what:5", 1.0),
    ("two", "2:10", 1.0),
    ("2", "two:10", 1.0),
    ("none", "0:10", 1.0),
    ("the end", "end:3|start:7", 0.9),
    ("yes?", "yes:10", 1.0),
    ("www.abc.com", "wwwabccom:10", 1.0),
    ("3.50", "3.50:10", 1.0),
    ("$3.50", "3.50:10", 0.0),
    ("isnt", "isn't:10", 1.0),
    ("", "unanswerable:10", 0.0),
]

VIZWIZ = [
    ("yes", "yes:10", 1.0),
    ("Yes", "yes:10", 1.0),  # the prediction is always normalised
    ("yes", "Yes:10", 0.0),  # the annotators' answers never
    ("two", "2:10", 1.0),
    ("2", "two:10", 0.0),
    ("a dog", "dog:3|cat:7", 0.9),
    ("dog", "a dog:10", 0.0),
    ("a dog", "a dog:10", 0.0),
    ("unanswerable", "unanswerable:7|grey:3", 1.0),
    ("Unanswerable.", "unanswerable:2|grey:8", 0.6),
    ("unsuitable", "unanswerable:10", 0.0),
    ("coca-cola", "coca cola:1|pepsi:9", 0.3),
]

GQA = [
    ("yes", "yes", 1.0),
    ("Yes", "yes", 1.0),
    ("Yes.", "yes", 1.0),
    ("yes..", "yes", 1.0),
    ("yes!", "yes", 0.0),
    ("yes it is", "yes", 0.0),
    (" yes ", "yes", 1.0),
    ("dog. ", "dog", 1.0),
    ("dog .", "dog", 0.0),
    ("the dog", "dog", 0.0),
    ("dogs", "dog", 0.0),
    ("2", "two", 0.0),
    ("T-shirt.", "t-shirt", 1.0),
    ("left\n", "left", 1.0),
    ("", "left", 0.0),
    ("traffic light.", "traffic light", 1.0),
    ("traffic  light", "traffic light", 0.0),
]

POPE = [  # (prediction, the answer read from it)
    ("Yes", "yes"),
    ("No", "no"),
    ("no", "no"),
    ("NO", "yes"),
    ("No.", "no"),
    ("no,", "no"),
    ("No, there is no dog.", "no"),
    ("Yes, there is a dog in the image.", "yes"),
    ("Yes, no doubt", "no"),
    ("There is not a dog.", "no"),
    ("There isn't a dog.", "yes"),
    ("Not at all", "yes"),
    ("None", "yes"),
    ("nothing", "yes"),
    ("cannot see", "yes"),
    ("know", "yes"),
    ("Yes. No dog is missing", "yes"),
    ("I do not know. Yes", "no"),
    ("A.No", "yes"),
    (".no", "yes"),
    ("No\nIt is absent", "yes"),  # a line break parts no words
    ("no,yes", "yes"),
    ("No  dog", "no"),
    (" no", "no"),
    ("\tno\n", "no"),
    ("Maybe", "yes"),
    ("", "yes"),
]

MME = [  # (prediction, the answer read from it)
    ("Yes", "yes"),
    ("yes.", "yes"),
    (" YES", "yes"),
    ("Yes\n", "yes"),
    ("No", "no"),
    ("No, it is not.", "no"),
    ("Nope", "no"),
    ("None", "no"),
    ("not sure", "no"),
    ("a no", "no"),
    ("Know", "no"),
    ("Eyes", "yes"),
    ("yes and no", "yes"),
    ("no yes", "no"),
    ("The answer is yes", "other"),
    ("I'm not sure", "other"),
    ("oh no", "other"),
    ("**Yes**", "other"),
    ("y", "other"),
    ("maybe", "other"),
    ("", "other"),
]

THREE = ("red", "green", "blue")
CATS = ("cat", "cats")

SCIENCEQA = [  # (prediction, choices, letter)
    ("B", THREE, "B"),
    (" B ", THREE, "B"),
    ("B. green", THREE, "B"),
    ("B. ", THREE, None),  # stripped, it is `B.`
    ("B.", THREE, None),
    ("B.\ngreen", THREE, None),
    ("(B)", THREE, None),
    ("b", THREE, None),
    ("green", THREE, None),
    ("Answer: B", THREE, None),
    ("The answer is B.", THREE, "B"),
    ("The answer is B", THREE, None),  # the pattern wants one more character
    ("The answer is B because", THREE, "B"),
    ("the answer is B.", THREE, None),
    ("The answer is (B).", THREE, None),
    ("The answer is B. The answer is C.", THREE, None),
    ("A. an apple. The answer is C.", THREE, "A"),
    ("D", THREE, None),
    ("D. grey", THREE, None),
    ("The answer is D.", THREE, None),
]

VLMEVAL = [  # (prediction, choices, letter)
    ("B", THREE, "B"),
    ("(B)", THREE, "B"),
    ("B.", THREE, "B"),
    ("[A]", THREE, "A"),
    ("{C}", THREE, "C"),
    ("*C*", THREE, "C"),
    ("#B", THREE, "B"),
    ("B!", THREE, "B"),
    ("C: blue", THREE, "C"),
    ("B. green", THREE, "B"),
    ("A, definitely", THREE, "A"),
    ("Answer: B", THREE, "B"),
    ("The answer is B", THREE, "B"),
    ("The answer is (C).", THREE, "C"),
    ("b", THREE, None),
    ("B?", THREE, None),  # a question mark stays with its word
    ("B/C", THREE, None),
    ("option-B", THREE, None),
    ("A or B", THREE, None),
    ("D", THREE, None),
    ("Z", THREE, "Z"),
    ("Z.", THREE, "Z"),
    ("Z. red", THREE, "Z"),  # though a choice's text follows
    ("Z or B", THREE, "B"),
    ("", THREE, None),
    ("Cannot determine the answer", THREE, "Z"),
    ("Cannot determine the answer. B", THREE, "Z"),  # though a letter follows
    ("Sorry, I can't help with images of people yet. A", THREE, "Z"),
    ("I can't process this file. red", THREE, "Z"),
    ("I'm sorry, but without the image provided I say B", THREE, "Z"),
    ("cannot determine the answer B", THREE, "B"),  # in lower case it is no refusal
    ("Failed to obtain answer via API. B", THREE, None),
    ("Failed to obtain answer via API", ("red", "answer", "a very long choice"), "B"),  # texts are still read
    ("The correct answer is **B**. Here is why: it is so.", THREE, None),  # B since 2026-06-17
    ("the answer is a dog", THREE, None),  # A since 2026-06-17
    ("green", THREE, "B"),
    ("BLUE", THREE, "C"),
    ("It is green.", THREE, "B"),
    ("greenish", THREE, "B"),
    ("red green", THREE, None),
    ("It is a thing that is green", THREE, None),  # longer than twice the choices
    ("A green ball", THREE, "A"),  # the article counts as the letter A
    ("A very nice green ball", THREE, "B"),  # but not in a longer answer
    ("I choose option C because the sky is so bright", THREE, None),
    ("cats", CATS, None),
    ("cat", CATS, "A"),
    ("B", CATS, "B"),
]

LETTER = [  # (prediction, choices, letter)
    ("A", THREE, "A"),
    (" C\n", THREE, "C"),
    ("A.", THREE, None),
    ("(A)", THREE, None),
    ("a", THREE, None),
    ("D", THREE, None),
    ("AB", THREE, None),
    ("", THREE, None),
]

VQA_NORMAL = [
    ("The two men's 1,000 dogs.", "2 men's 1000 dogs"),
    ("A  B", "b"),
    ("." * 33 + "b c", ".b c"),  # the first 32 periods go
    ("none, 3.5; ten", "0 3.5 10"),
    ("wouldnt've", "wouldn't've"),
]

EVALAI_NORMAL = [
    ("It's One's, Right?", "it 's 1 's right"),
    ("Red,Green", "redgreen"),
    ("dogs/cats", "dogs cats"),
    ("the U.S.", "us"),
]

TOKENS = [
    ("A man's dog.", "a man 's dog"),
    ("A dog. A cat!", "a dog a cat"),
    ("Two t-shirts, 3.5 m & o'clock", "two t-shirts 3.5 m & o'clock"),
    ("it can't, it won't", "it ca n't it wo n't"),
    ("I cannot", "i can not"),
    ("red “blue” - green", "red blue green"),
    ("", ""),
    # forms of COCO's captions, with the tokens of PTBTokenizer
    ("A street in the 1950s, 21st Avenue", "a street in the 1950s 21st avenue"),
    ("7up 2x4 615ml 5pm 10:30am", "7up 2x4 615ml 5pm 10:30 am"),
    ("a tub/shower and/or 50/50, 11/9/2001", "a tub/shower and/or 50/50 11/9/2001"),
    ("w/ a dog w/o a cat / man", "w / a dog w/o a cat / man"),
    ("a 30-year-old in 7-Eleven, 20-25, 10-29-2011", "a 30-year-old in 7-eleven 20-25 10-29-2011"),
    ("1,000-pound 3.5-inch 3.5mm", "1,000-pound 3.5-inch 3.5 mm"),
    ("parked in the ground.A bike near Bigelow.taken", "parked in the ground.a bike near bigelow.taken"),
    ("a dog.", "a dog"),
    ("S Lane St. and 12th Ave.", "s lane st. and 12th ave."),
    ("a Blvd. sign, Rd. and Ft. Spokane in KY.", "a blvd. sign rd. and ft. spokane in ky."),
    ("Dr. Who, Mr. Dog etc., the west.", "dr. who mr. dog etc. the west"),
    ("a large mass. A wash.", "a large mass a wash"),
    ("U.S.A flag, U.S. D.V.D player at 5 p.m.", "u.s.a flag u.s. d.v.d player at 5 p.m."),
    ("A. clear vase, W. 122nd", "a. clear vase w. 122nd"),
    ("a sign that reads K.", "a sign that reads k"),
    ("A person I. A hood", "a person i a hood"),
    ("No. 5, no. of", "no. 5 no of"),
    ("(red) [blue] {green}", "-lrb- red -rrb- -lsb- blue -rsb- -lcb- green -rcb-"),
    ("gonna wanna gotta gimme cannot-do", "gon na wan na got ta gim me cannot-do"),
    ("Stop!! What?! no! yes?", "stop !! what ?! no yes"),
    ("it’s a dog’s, don’t", "it 's a dog 's do n't"),
    ("one — two – three -- four... five", "one two three four five"),
    ("the '90s, the 80's, rock 'n' roll", "the '90s the 80 's rock 'n' roll"),
    ("O'Brien's ma'am, dogs' 'green'", "o'brien 's ma'am dogs green"),
    ("R&B AT&T b&w", "r&b at&t b & w"),
    ("$5 5% #1 £5 €6 #tag ½", "$ 5 5 % # 1 # 5 $ 6 #tag 1/2"),
    ("at 22 3/4 St", "at 22 3/4 st"),
]
